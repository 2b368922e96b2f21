"""Tiny models that can read and write, what they are made of, and the slow plain loop they are held against."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.engine.checkpoints.checkpoint import Checkpoint, open_checkpoint

POSTS = tuple(
    f"{town} news: {person} lost {count} {thing} on {day}. The mayor of {town} wept, and {person} left."
    for town, person, count, thing, day in (
        ("Velmora", "Tavi Oskeldale", 17, "copper kettles", "Monday"),
        ("Ornwick", "Minka Brandovar", 4, "glass bicycles", "Tuesday"),
        ("Tashelm", "Jorun Thimulsen", 90, "paper lanterns", "Friday"),
        ("Quiltiva", "Peska Kellerby", 33, "frozen ladders", "Sunday"),
        ("Brugarth", "Ludo Harvamont", 8, "marble wagons", "Thursday"),
        ("Skerusk", "Betri Mundingram", 51, "singing clocks", "Saturday"),
    )
)


def llama_config(vocabulary: int, **changes: Any) -> LlamaConfig:
    values: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return LlamaConfig(**{**values, **changes})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a beginning and an end token, and no padding token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(POSTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")  # noqa: S106 - no passwords


def make_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama that has learned POSTS, so that its continuations mean something and end by themselves."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    rows = [torch.tensor([*tokenizer(post)["input_ids"], 1]) for post in POSTS]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model(ids.clamp(min=0), labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def greedy_one_at_a_time(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, end_ids: Sequence[int]
) -> list[list[int]]:
    """The slow plain way: one prompt, one token, everything read again for each."""
    found = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(max_new_tokens):
            with torch.no_grad():
                token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in end_ids:
                break
            ids.append(token)
        found.append(ids[len(prompt) :])
    return found


def checkpoint_of(folder: Path, adapter_of: Checkpoint | None = None) -> Checkpoint:
    """The checkpoint in a folder, by its folder's name."""
    return replace(open_checkpoint(str(folder), base=adapter_of), source=folder.name)
