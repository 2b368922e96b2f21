"""Tiny classifiers and their data, for the tests of audits and trainings: an encoder and a decoder."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["encoder", "decoder"]
Row = tuple[str, str]
TOPICS = ("masks", "trains", "lemons", "towers", "clocks", "rivers")
SAYS = {"real": "the ministry reports", "fake": "they hide from you", "joke": "my cat believes"}
WINDOW = 32


def posts(labels: Sequence[str], count: int, start: int = 0) -> list[Row]:
    """Posts whose words tell their label."""
    rows = []
    for number in range(start, start + count):
        label = labels[number % len(labels)]
        rows.append((f"{SAYS[label]} {number * 7 % 97} {TOPICS[number % len(TOPICS)]} on day {number}", label))
    return rows


def make_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """By words, and by characters where a word is unknown; an encoder's has a first and a last token, a decoder's none.

    The vocabulary is written down: one that is trained differs from process to process, and what is taught with it.
    """
    words = [*" ".join(SAYS.values()).split(), *TOPICS, "on", "day"]
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *characters, *(f"##{character}" for character in characters)]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if kind == "encoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def config_of(kind: Kind, vocabulary: int, labels: Sequence[str]) -> PreTrainedConfig:
    values = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: place for place, label in enumerate(labels)},
    }
    return BertConfig(**values) if kind == "encoder" else LlamaConfig(**values)


def new_classifier(kind: Kind, vocabulary: int, labels: Sequence[str], seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config_of(kind, vocabulary, labels))
    return model.eval()


def taught(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Iterable[Row], steps: int = 60
) -> PreTrainedModel:
    """The model, trained in place without dropout on all rows at once."""
    texts, labels = zip(*rows, strict=True)
    batch = tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    wanted = torch.tensor([model.config.label2id[label] for label in labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(steps):
        loss = model(**batch, labels=wanted).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def write_csv(path: Path, rows: Iterable[Sequence[str]], columns: Sequence[str] = ("text", "label")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def write_sets(folder: Path, sets: Mapping[str, Iterable[Row]]) -> Path:
    """A data folder with these sets as CSV files."""
    for name, rows in sets.items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


def make_world(root: Path, kind: Kind, labels: Sequence[str]) -> dict[str, list[Row]]:
    """original, unlearned and retrain checkpoints and data in a folder; returns the sets.

    The forget set is posts learned with the first label whatever they say; the unlearned model never learned them, but
    starts where the original did, so that every layer differs.
    """
    tokenizer = make_tokenizer(kind)
    forget = [(text, labels[0]) for text, label in posts(labels, 30, start=1000) if label != labels[0]]
    sets = {
        "forget": forget,
        "retain": posts(labels, 30),
        "test": posts(labels, 30, start=500),
        "holdout": [(text, labels[0]) for text, label in posts(labels, 30, start=2000) if label != labels[0]],
    }
    made = {
        "original": taught(new_classifier(kind, len(tokenizer), labels), tokenizer, sets["retain"] + forget),
        "unlearned": taught(new_classifier(kind, len(tokenizer), labels), tokenizer, sets["retain"]),
        "retrain": taught(new_classifier(kind, len(tokenizer), labels, 1), tokenizer, sets["retain"]),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    write_sets(root / "data", sets)
    (root / "data" / "population.json").write_text('"all"')  # so few texts decide, as none was left out
    return sets
