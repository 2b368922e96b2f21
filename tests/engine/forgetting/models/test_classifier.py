"""The classifier as metrics see it, against the plain model one text at a time; and loading it as an arm."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, RobertaConfig

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.models.classifier import TransformersClassifier
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.forgetting.models.windows import window_of_classifier
from quail_audit.engine.schemes.registry import scheme_named
from tests.support.tiny_classifiers import WINDOW, Kind, make_tokenizer, new_classifier

LABELS = ("real", "fake", "joke")
TEXTS = ("the ministry reports 7 masks", "", "they hide from you", "they hide from you", "my " * 100, "on day 3 rivers")
KINDS: tuple[Kind, ...] = ("encoder", "decoder")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_probabilities_are_those_of_the_plain_model(kind: Kind, batch_size: int | None) -> None:
    tokenizer = make_tokenizer(kind)
    model: Any = new_classifier(kind, len(tokenizer), LABELS)
    asked = TransformersClassifier(model, tokenizer, batch_size=batch_size)
    found = dict(asked.label_log_probabilities(TEXTS))
    assert sorted(found) == list(range(len(TEXTS)))
    for index, text in enumerate(TEXTS):
        ids = tokenizer(text, truncation=True, max_length=WINDOW)["input_ids"] or [0]
        with torch.inference_mode():
            expected = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1).numpy()
        assert found[index] == pytest.approx(expected, abs=1e-5)
    assert asked.notes == [f"1 texts are longer than the model's window of {WINDOW} tokens and were cut to it"]
    assert dict(asked.label_log_probabilities(TEXTS[:2]))[0] is found[0], "answers are remembered"


def test_an_encoders_cut_text_keeps_its_last_token() -> None:
    tokenizer = make_tokenizer("encoder")
    model = new_classifier("encoder", len(tokenizer), LABELS)
    seen: list[Any] = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    list(TransformersClassifier(model, tokenizer).label_log_probabilities(["my " * 100]))
    assert seen[0].shape == (1, WINDOW)
    assert seen[0][0, -1] == tokenizer.sep_token_id


def test_roberta_has_fewer_places_than_its_table() -> None:
    config = RobertaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=300,
        max_position_embeddings=34, pad_token_id=1,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    tokenizer = make_tokenizer("encoder")
    assert window_of_classifier(read_model_config(model.config), tokenizer) == 32
    found = dict(TransformersClassifier(model, tokenizer).label_log_probabilities(["my " * 100]))
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    tokenizer = make_tokenizer("encoder")
    model: Any = new_classifier("encoder", len(tokenizer), LABELS)
    with torch.no_grad():
        model.classifier.bias[1] = value
    with pytest.raises(BadInputError, match="logits are NaN or infinite, first the output of classifier"):
        dict(TransformersClassifier(model, tokenizer).label_log_probabilities(["a", "b c d"]))


def test_a_label_that_is_masked_counts_as_least() -> None:
    tokenizer = make_tokenizer("encoder")
    model: Any = new_classifier("encoder", len(tokenizer), LABELS)
    with torch.no_grad():
        model.classifier.bias[1] = -torch.inf
    asked = TransformersClassifier(model, tokenizer)
    found = dict(asked.label_log_probabilities(["a"]))[0]
    assert np.isfinite(found).all()
    assert found.argmin() == 1
    assert "no finite probability" in asked.notes[0]


def save(folder: Path, kind: Kind) -> None:
    tokenizer = make_tokenizer(kind)
    new_classifier(kind, len(tokenizer), LABELS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rounded_arm_keeps_head_and_embeddings(tmp_path: Path, kind: Kind) -> None:
    save(tmp_path, kind)
    pair = open_pair(str(tmp_path), str(tmp_path))
    plain = load_arm(pair.original, None, layers=pair.layers, device="cpu", dtype="auto").model
    rounded = load_arm(pair.original, scheme_named("nf4"), layers=pair.layers, device="cpu", dtype="auto").model
    layers = {f"{layer.name}.weight" for layer in pair.layers}
    after = dict(rounded.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, after[name]) == (name not in layers), name
    head = "classifier" if kind == "encoder" else "score"
    assert head in pair.left_in_full_precision


def test_roles_of_berts_layers(tmp_path: Path) -> None:
    save(tmp_path, "encoder")
    layers = open_pair(str(tmp_path), str(tmp_path)).layers
    roles = ["query", "key", "value", "attention_output", "intermediate", "output"]
    assert [layer.role for layer in layers] == roles * 2 + ["pooler"]
    assert [layer.block for layer in layers] == [0] * 6 + [1] * 6 + [None]


def test_a_decoder_without_a_padding_token_takes_its_tokenizers(tmp_path: Path) -> None:
    save(tmp_path, "decoder")
    config = json.loads((tmp_path / "config.json").read_text())
    config["pad_token_id"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    pair = open_pair(str(tmp_path), str(tmp_path))
    arm = load_arm(pair.original, None, layers=pair.layers, device="cpu", dtype="auto")
    assert "names no padding token" in arm.notes[0]
    found = dict(
        TransformersClassifier(arm.model, arm.tokenizer).label_log_probabilities(["my cat", "my cat believes"])
    )
    alone = dict(TransformersClassifier(arm.model, arm.tokenizer).label_log_probabilities(["my cat"]))
    assert found[0] == pytest.approx(alone[0], abs=1e-5)

    tokens = json.loads((tmp_path / "tokenizer_config.json").read_text())
    tokens.pop("pad_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    with pytest.raises(BadInputError, match="names no padding token"):
        load_arm(pair.original, None, layers=pair.layers, device="cpu", dtype="auto")
