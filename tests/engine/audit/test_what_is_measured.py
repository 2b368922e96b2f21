"""Audit weights whose changes lie in experts, in unmeasured matrices or in guessed layers."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RecurrentGemmaConfig

import quail_audit
from quail_audit.engine.checkpoints.model.transformers_rules import is_version_5
from quail_audit.schema.report import Report
from tests.support.tiny_checkpoints import VOCABULARY, save
from tests.support.tiny_experts import tiny_mixture

SCHEME = "gguf-q4_0"
Q4_0 = gguf.GGMLQuantizationType.Q4_0


def audited(folder: Path) -> Report:
    return quail_audit.audit(folder / "original", folder / "unlearned", schemes=[SCHEME])


def copy_changed(folder: Path, **changes: Any) -> None:
    """Copy original to unlearned, and change the tensors whose names hold a word: word=function of a tensor."""
    shutil.copytree(folder / "original", folder / "unlearned")
    tensors = load_file(folder / "original" / "model.safetensors")
    for word, change in changes.items():
        found = [name for name in tensors if word in name and tensors[name].dim() >= 2]
        assert found
        tensors.update({name: change(tensors[name]).contiguous() for name in found})
    save_file(tensors, folder / "unlearned" / "model.safetensors", metadata={"format": "pt"})


def moved_far(weight: torch.Tensor) -> torch.Tensor:
    return weight + 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))


def moved_inside_its_buckets(weight: torch.Tensor) -> torch.Tensor:
    """Half the way to the values that llama.cpp rounds to: it stores both alike."""
    packed = gguf.quantize(weight.numpy(), Q4_0)
    moved = (weight + torch.from_numpy(gguf.dequantize(packed, Q4_0).copy())) / 2
    top = weight.reshape(-1, 32).abs().amax(1, keepdim=True).expand(-1, 32).reshape(weight.shape)
    moved = torch.where(weight.abs() == top, weight, moved)
    assert (gguf.quantize(moved.numpy(), Q4_0) == packed).all()
    return moved


def codes(report: Report) -> set[str]:
    assert report.verdict is not None
    return {reason.code for reason in report.verdict.reasons}


@pytest.mark.skipif(not is_version_5(), reason="transformers 4 keeps experts as modules")
@pytest.mark.parametrize("others", [{}, {"self_attn": moved_far}])
def test_unlearning_in_experts_that_rounding_erases_is_found(others: dict[str, Any], tmp_path: Path) -> None:
    tiny_mixture("MixtralForCausalLM").save_pretrained(tmp_path / "original")
    copy_changed(tmp_path, experts=moved_inside_its_buckets, **others)
    report = audited(tmp_path)
    assert report.exit_code == 1
    states = {layer.name: layer.state for layer in report.schemes[SCHEME].layers}
    experts = {name for name in states if ".experts." in name}
    assert len(experts) == 2 * 3 * 3
    assert {states[name] for name in experts} == {"erased"}
    assert {states[name] for name in states.keys() - experts} == {"carried" if others else "untouched"}
    assert report.other_tensors is not None
    assert report.other_tensors.matrix_weights == 0


@pytest.mark.parametrize("others", [{}, {"linear_y": moved_far}])
def test_changes_in_a_matrix_that_cannot_be_measured_pass_nothing(others: dict[str, Any], tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "lru_width": 64, "num_hidden_layers": 2}
    save(tmp_path / "original", RecurrentGemmaConfig(**sizes, num_attention_heads=4, vocab_size=VOCABULARY))
    copy_changed(tmp_path, input_gate_weight=moved_far, **others)
    report = audited(tmp_path)
    assert report.verdict is not None
    assert report.verdict.outcome == "inconclusive"
    assert codes(report) == {"not_all_measured", "weights_only" if others else "nothing_changed"}
    assert any("rg_lru.input_gate_weight" in reason.message for reason in report.verdict.reasons)


@pytest.mark.parametrize("kind", ["no config", "a type that transformers lacks"])
def test_layers_that_are_guessed_pass_nothing(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "original")
    config = tmp_path / "original" / "config.json"
    if kind == "no config":
        config.unlink()
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "never-heard-of"}))
    copy_changed(tmp_path, self_attn=moved_far)
    report = audited(tmp_path)
    assert report.verdict is not None
    assert report.verdict.outcome == "inconclusive"
    assert codes(report) == {"layers_guessed", "weights_only"}


@pytest.mark.parametrize("changed", ["extra", "q_proj"])
def test_matrices_of_a_class_that_transformers_lacks_are_not_measured(changed: str, tmp_path: Path) -> None:
    """The class that stands in for it has no use for them, but the deployed one has."""
    save(tmp_path / "original")
    config = tmp_path / "original" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["LlamaWithMoreForCausalLM"]}))
    tensors = load_file(tmp_path / "original" / "model.safetensors")
    tensors["model.layers.0.mlp.extra.weight"] = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    save_file(tensors, tmp_path / "original" / "model.safetensors", metadata={"format": "pt"})
    copy_changed(tmp_path, **{"down_proj": moved_far, changed: moved_far})
    report = audited(tmp_path)
    assert report.other_tensors is not None
    assert report.other_tensors.matrices == ("model.layers.0.mlp.extra.weight",)
    assert report.verdict is not None
    assert report.verdict.outcome == "inconclusive"
    assert codes(report) == {"weights_only"} | ({"not_all_measured"} if changed == "extra" else set())
