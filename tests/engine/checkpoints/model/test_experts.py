"""Hold the matrices that are read of a mixture to the parameters that transformers loads."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.model.transformers_rules import is_version_5
from quail_audit.engine.checkpoints.pair import Layer, open_pair
from quail_audit.engine.forgetting.models.rounding import round_layers
from quail_audit.engine.schemes.registry import scheme_named
from tests.support.tiny_experts import MIXTURES, tiny_mixture

pytestmark = pytest.mark.skipif(not is_version_5(), reason="transformers 4 keeps experts as modules")


def matrix_weights(model: Any) -> int:
    """Count the weights of all matrices but embeddings, the head, routers and depthwise convolutions."""
    total = 0
    for path, module in model.named_modules():
        kept = isinstance(module, torch.nn.Embedding | torch.nn.Conv1d) or "Router" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2 and not kept and path != "lm_head" and not re.search(r"bias|A_log", name):
                total += parameter.numel()
    return total


def expected_values(model: Any, layer: Layer) -> torch.Tensor:
    """Cut a layer's values [outputs, inputs] out of the model, by the words of its name alone."""
    *path, last = layer.name.split(".")
    if layer.part is None:
        weight = model.get_submodule(layer.name).weight
        return weight if not layer.transposed else weight.T
    if last.isdecimal():  # JetMoE's
        return model.get_submodule(".".join(path)).weight[int(last)]
    experts, number = model.get_submodule(".".join(path[:-1])), int(path[-1])
    if last in ("down_proj", "w2"):
        whole = experts.down_proj[number]
        return whole.T if whole.shape != layer.shape or layer.transposed else whole
    both = experts.gate_up_proj[number]
    kind = type(experts).__name__
    both = both.T if kind in ("GptOssExperts", "Llama4TextExperts", "AriaExperts") else both
    if kind == "GptOssExperts":
        return both[0 if last == "gate_proj" else 1 :: 2]
    return both[: len(both) // 2] if last in ("gate_proj", "w1") else both[len(both) // 2 :]


@pytest.mark.parametrize("kind", MIXTURES)
def test_every_matrix_is_the_one_that_transformers_loads_and_all_are_counted(kind: str, tmp_path: Path) -> None:
    tiny_mixture(kind).save_pretrained(tmp_path)
    loaded = getattr(transformers, kind).from_pretrained(tmp_path)
    pair = open_pair(str(tmp_path), str(tmp_path))
    names = [layer.name for layer in pair.layers]
    assert MIXTURES[kind][2] in names
    assert len(set(names)) == len(names)
    for layer in pair.layers:
        original, unlearned = pair.read(layer)
        assert original.shape == layer.shape
        assert original.is_contiguous()
        assert torch.equal(original, expected_values(loaded, layer))
        assert torch.equal(original, unlearned)
    layout = pair.original.layout
    assert not layout.unread
    assert sum(layer.weights for layer in pair.layers) + sum(layout.unmeasured.values()) == matrix_weights(loaded)
    assert any("experts are rounded matrix by matrix" in note for note in pair.notes)


@pytest.mark.parametrize("kind", ["MixtralForCausalLM", "GptOssForCausalLM", "Llama4ForCausalLM", "JetMoeForCausalLM"])
@pytest.mark.parametrize("scheme", ["gguf-q4_0", "nf4", "rtn-int8-channel"])
def test_an_arm_has_the_values_that_layers_are_measured_by(kind: str, scheme: str, tmp_path: Path) -> None:
    tiny_mixture(kind).save_pretrained(tmp_path)
    pair, chosen = open_pair(str(tmp_path), str(tmp_path)), scheme_named(scheme)
    loaded, plain = (getattr(transformers, kind).from_pretrained(tmp_path) for _ in range(2))
    round_layers(loaded, chosen, pair.layers, torch.device("cpu"), torch.float32, str(tmp_path))
    for layer in pair.layers:
        assert torch.equal(expected_values(loaded, layer), chosen.deployed_weights(pair.read(layer)[0]))
    measured = {layer.matrix.parameter for layer in pair.layers}
    before = dict(plain.named_parameters())
    changed = {name for name, now in loaded.named_parameters() if not torch.equal(now, before[name])}
    assert changed == measured


def test_an_experts_rounding_is_that_of_each_row_by_itself(tmp_path: Path) -> None:
    """A slow plain Q8_0 of blocks of 32 inputs, on GPT-OSS, which stores [inputs, outputs], gate and up interleaved."""
    model = tiny_mixture("GptOssForCausalLM")
    whole = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj").detach().clone()
    model.save_pretrained(tmp_path)
    pair = open_pair(str(tmp_path), str(tmp_path))
    scheme = scheme_named("gguf-q8_0")
    round_layers(model, scheme, pair.layers, torch.device("cpu"), torch.float32, str(tmp_path))
    rounded = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    for expert in range(whole.shape[0]):
        for output in range(whole.shape[2]):
            block = whole[expert, :, output]  # 32 inputs: one block
            step = float(block.abs().max()) / 127
            stored = float(torch.tensor(step, dtype=torch.float16))
            slow = torch.tensor([round(float(value) / step) * stored for value in block])
            assert torch.allclose(rounded[expert, :, output], slow, rtol=1e-6, atol=0)


def test_sides_that_store_experts_fused_and_apart_are_one_model(tmp_path: Path) -> None:
    model = tiny_mixture("MixtralForCausalLM")
    model.save_pretrained(tmp_path / "apart")
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    pair = open_pair(str(tmp_path / "apart"), str(tmp_path / "fused"))
    assert "experts.gate_up_proj" in " ".join(pair.unlearned.names)
    assert "experts.gate_up_proj" not in " ".join(pair.original.names)
    for layer in pair.layers:
        assert torch.equal(*pair.read(layer))


def test_an_expert_is_read_from_its_own_tensor_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_mixture("MixtralForCausalLM").save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    read: list[str] = []
    for matrix in checkpoint.layout.rounded:
        before = len(read)

        def note(name: str) -> torch.Tensor:
            read.append(name)
            return checkpoint.read(name)

        checkpoint.layout.read(matrix, note)
        assert len(read) == before + 1
        assert math.prod(checkpoint.info(read[-1]).shape) == math.prod(
            matrix.shape_in(checkpoint.layout.shapes[matrix.parameter])
        )
    assert len(set(read)) == len(checkpoint.layout.rounded)


def test_experts_that_the_files_lack_are_counted_as_not_measured(tmp_path: Path) -> None:
    tiny_mixture("MixtralForCausalLM").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.2.w2.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    layout = open_checkpoint(str(tmp_path)).layout
    assert list(layout.unmeasured) == ["model.layers.1.mlp.experts.down_proj"]
    assert [name for name in layout.unread if "experts" in name] == [
        f"model.layers.1.mlp.experts.{number}.w2" for number in range(3)
    ]
