"""Tensors that no scheme measures: refused if they are not finite, and compared side by side."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, PretrainedConfig

from quail_audit.core.errors import BadInputError
from quail_audit.engine.audit import run as audits
from quail_audit.engine.audit.run import audit
from quail_audit.engine.weights.whole_tensors import WEIGHTS_PER_PIECE, count_differing, count_nonfinite
from quail_audit.runs.journal import open_journal
from quail_audit.schema.figures import OtherTensors
from quail_audit.schema.requests import AuditRequest
from tests.support.tiny_audits import state_of
from tests.support.tiny_checkpoints import CONFIGS, VOCABULARY, save

Change = Callable[[torch.Tensor], object]
DEEPSEEK = DeepseekV3Config(
    hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, vocab_size=VOCABULARY, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
    first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16,
)  # fmt: skip


def change(folder: Path, name: str, how: Change) -> None:
    tensors = load_file(folder / "model.safetensors")
    how(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def spoil(value: float) -> Change:
    return lambda tensor: tensor.view(-1)[2:4].fill_(value)


def request(folder: Path, **changes: Any) -> AuditRequest:
    return AuditRequest(original=str(folder / "original"), unlearned=str(folder / "unlearned"), device="cpu", **changes)


def save_sides(folder: Path, config: PretrainedConfig, **sides: int) -> None:
    for side, seed in ({"original": 0, "unlearned": 0} | sides).items():
        save(folder / side, config, seed)


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("llama", "model.norm.weight"),
        ("llama", "model.embed_tokens.weight"),
        ("llama", "lm_head.weight"),
        ("llama, tied", "model.embed_tokens.weight"),
        ("qwen2", "model.layers.1.self_attn.v_proj.bias"),
        ("gpt2", "transformer.wpe.weight"),
        ("gpt-neox", "gpt_neox.layers.0.attention.dense.bias"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.1.w2.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight"),
        ("deepseek", "model.layers.1.mlp.gate.e_score_correction_bias"),  # a buffer that is stored
    ],
)
@pytest.mark.parametrize("side", ["original", "unlearned"])
def test_a_tensor_that_is_not_finite_is_refused_by_name_and_side(
    family: str, tensor: str, side: str, tmp_path: Path
) -> None:
    save_sides(tmp_path, DEEPSEEK if family == "deepseek" else CONFIGS[family])
    change(tmp_path / side, tensor, spoil(math.nan if side == "original" else -math.inf))
    with pytest.raises(BadInputError, match="2 weights are NaN or infinite, in 1 ") as refused:
        list(audit(request(tmp_path), "run"))
    layer = tensor.removesuffix(".weight").replace("block_sparse_moe.experts", "mlp.experts")  # the model's name of it
    assert refused.value.message.endswith(f": {layer}") or tensor in refused.value.message
    assert refused.value.where == str(tmp_path / side)


def test_every_tensor_of_the_reference_is_checked_and_layers_of_both_sides_are_named_in_model_order(
    tmp_path: Path,
) -> None:
    save_sides(tmp_path, CONFIGS["llama"], retrain=1)
    change(tmp_path / "retrain", "model.layers.0.mlp.up_proj.weight", spoil(math.nan))
    asked = request(tmp_path, retrain=str(tmp_path / "retrain"))
    with pytest.raises(BadInputError, match=r"2 weights .* in 1 tensors: model.layers.0.mlp.up_proj.weight") as refused:
        list(audit(asked, "run"))
    assert refused.value.where == asked.retrain
    change(tmp_path / "unlearned", "lm_head.weight", spoil(math.inf))
    change(tmp_path / "unlearned", "model.layers.1.self_attn.q_proj.weight", spoil(math.nan))
    change(tmp_path / "original", "model.embed_tokens.weight", spoil(math.inf))
    with pytest.raises(BadInputError, match=r"8 weights .* in 4 tensors: model.embed_tokens.weight, model.l") as all_of:
        list(audit(asked, "run"))
    assert all_of.value.where.split(" and ") == [str(tmp_path / s) for s in ("unlearned", "original", "retrain")]


def test_a_buffer_that_transformers_ignores_may_hold_anything(tmp_path: Path) -> None:
    save_sides(tmp_path, CONFIGS["llama"])
    tensors = load_file(tmp_path / "unlearned" / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.full((8,), math.nan)
    save_file(tensors, tmp_path / "unlearned" / "model.safetensors", metadata={"format": "pt"})
    assert read_others(tmp_path).identical == 3 + 2 * 2


def read_others(folder: Path) -> OtherTensors:
    found = state_of(audit(request(folder), "run")).report().other_tensors
    assert found is not None
    return found


def test_tensors_that_are_not_layers_are_compared(tmp_path: Path) -> None:
    save_sides(tmp_path, CONFIGS["qwen2"])
    weights = 2 * VOCABULARY * 64 + 64 + 2 * (2 * 64 + 64 + 32 + 32)
    same = OtherTensors(count=13, weights=weights, identical=13, changed=(), weights_changed=0)
    assert read_others(tmp_path) == same
    change(tmp_path / "unlearned", "model.layers.0.mlp.up_proj.weight", lambda tensor: tensor.mul_(2))
    assert read_others(tmp_path) == same, "a layer is no other tensor"
    change(tmp_path / "unlearned", "model.norm.weight", lambda tensor: tensor[:3].mul_(2))
    change(tmp_path / "unlearned", "lm_head.weight", lambda tensor: tensor[0, 0].add_(1))
    found = read_others(tmp_path)
    assert (found.identical, found.changed, found.weights_changed) == (11, ("model.norm.weight", "lm_head.weight"), 4)


def test_a_tied_head_that_one_side_stores_is_the_embedding(tmp_path: Path) -> None:
    save_sides(tmp_path, CONFIGS["llama, tied"])
    tensors = load_file(tmp_path / "unlearned" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "unlearned" / "model.safetensors", metadata={"format": "pt"})
    found = read_others(tmp_path)
    assert (found.count, found.identical, found.on_one_side) == (7, 7, ())


def test_a_resumed_audit_reads_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sides(tmp_path, CONFIGS["llama"])
    with open_journal(tmp_path / "journal.jsonl") as journal:
        before = state_of(audit(request(tmp_path), "run", journal=journal)).other_tensors
    monkeypatch.setattr("quail_audit.engine.weights.whole_tensors.count_nonfinite", lambda tensor: 1 / 0)
    with open_journal(tmp_path / "journal.jsonl") as journal:
        assert state_of(audits.audit(request(tmp_path), "run", journal=journal)).other_tensors == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("size", [1, 7, WEIGHTS_PER_PIECE + 5])
def test_counts_are_those_of_a_plain_loop(dtype: torch.dtype, size: int) -> None:
    values = torch.linspace(-3, 3, size).to(dtype)
    other = values.clone()
    assert (count_nonfinite(values), count_differing(values, other)) == (0, 0)
    for place in {0, size // 2, size - 1}:
        other[place] = torch.nan
    wanted = sum(not math.isfinite(value) for value in other.tolist())
    assert count_nonfinite(other) == wanted == count_differing(values, other)
    widened = values.float().clone()
    assert count_differing(values, widened) == 0
    widened[-1] += 1e-3
    assert count_differing(values, widened) == 1


def test_whole_numbers_and_nothing_are_finite() -> None:
    assert count_nonfinite(torch.tensor([1, 2])) == count_nonfinite(torch.empty(0)) == 0
    assert count_differing(torch.tensor([0.0]), torch.tensor([-0.0])) == 1
