"""The mask of SURE: which rows it picks, and that the Trainer's steps obey it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.core.errors import UsageError
from quail_train.data.samples import TrainingSample
from quail_train.training.saliency import salient_rows
from tests.support.tiny_language_models import POSTS
from tests.support.tiny_training import events_of, request_in


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before != after).any(dim=1)


def test_rows_with_the_largest_gradients_are_salient(training_world: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = LlamaForCausalLM.from_pretrained(training_world / "unlearned")
    modules = {
        name: model.get_submodule(name) for name in ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj")
    }
    ids = [tuple(tokenizer(post)["input_ids"]) for post in POSTS[:3]]
    found = salient_rows(model, modules, [TrainingSample(row, row) for row in ids], batch_size=2)
    longest = max(map(len, ids))
    batch = torch.tensor([row + (0,) * (longest - len(row)) for row in ids])
    labels = torch.tensor([row + (-100,) * (longest - len(row)) for row in ids])
    model(batch, labels=labels).loss.backward()  # transformers' own mean over tokens
    norms = {name: module.weight.grad.norm(dim=1) for name, module in modules.items()}  # type: ignore[union-attr]
    threshold = np.percentile(torch.cat(list(norms.values())).numpy(), 90)
    for name, norm in norms.items():
        assert torch.equal(found[name].squeeze(1), norm >= threshold)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_only_salient_rows_move(training_world: Path, tmp_path: Path) -> None:
    list(events_of(request_in(training_world, tmp_path / "sure", objective="sure", max_steps=3)))
    list(events_of(request_in(training_world, tmp_path / "plain", objective="ga_gdr", max_steps=3)))
    before = load_file(training_world / "unlearned" / "model.safetensors")
    after, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("sure", "plain"))
    names = [name for name in before if "_proj" in name]
    rows = sum(before[name].shape[0] for name in names)
    moved = sum(int(moved_rows(before[name], after[name]).sum()) for name in names)
    assert moved == pytest.approx(0.1 * rows, abs=2)
    assert sum(int(moved_rows(before[name], plain[name]).sum()) for name in names) == rows, "without it all move"


def test_weight_decay_is_refused(training_world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rows that must not change"):
        list(events_of(request_in(training_world, tmp_path / "out", objective="sure", trainer={"weight_decay": "0.1"})))
