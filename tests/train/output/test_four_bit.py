"""The packed copy against what transformers and bitsandbytes themselves make of the same checkpoint."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_train.output import four_bit as four_bit_copy
from quail_train.output.four_bit import write_four_bit_copy
from tests.support.tiny_checkpoints import build, gpt2_config, llama_config


def copied(tmp_path: Path, config: Any, kind: Literal["nf4", "fp4"], dtype: torch.dtype, *, double: bool) -> None:
    full = tmp_path / "full"
    build(config, dtype=dtype).save_pretrained(full)
    pair = open_pair(str(full), str(full))
    scheme = FourBit(kind, double_quantization=double)
    write_four_bit_copy(tmp_path / "copy", open_checkpoint(str(full)), pair.layers, scheme, None)


@pytest.mark.parametrize(
    ("config", "kind", "double", "dtype"),
    [
        (llama_config(), "nf4", False, torch.bfloat16),
        (llama_config(), "fp4", True, torch.float32),
        (gpt2_config(), "nf4", False, torch.float32),
    ],
)
def test_every_tensor_is_the_one_that_transformers_saves(
    tmp_path: Path, config: Any, kind: Literal["nf4", "fp4"], double: bool, dtype: torch.dtype
) -> None:
    copied(tmp_path, config, kind, dtype, double=double)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "full", quantization_config=settings, dtype=dtype, device_map="cpu"
    )
    loaded.save_pretrained(tmp_path / "packed")
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("packed", "copy"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def test_transformers_loads_it_and_quail_reads_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several files, as a large model's would be."""
    monkeypatch.setattr(four_bit_copy, "SHARD_BYTES", 20_000)
    copied(tmp_path, llama_config(), "nf4", torch.float32, double=False)
    assert len(list((tmp_path / "copy").glob("model-*.safetensors"))) > 2
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "full", quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32, device_map="cpu")
    for name, module in theirs.named_modules():
        if isinstance(module, Linear4bit):
            loaded: Any = ours.get_submodule(name).weight
            made: Any = module.weight
            assert torch.equal(loaded.data, made.data)
            assert torch.equal(loaded.quant_state.absmax, made.quant_state.absmax)
    scheme = FourBit("nf4", double_quantization=False)
    pair = open_pair(str(tmp_path / "full"), str(tmp_path / "copy"))
    assert pair.unlearned.scheme == "nf4"
    for layer in pair.layers:
        full, packed = pair.read(layer)
        assert torch.equal(scheme.dequantize(scheme.quantize(full)), packed)


def test_an_older_copys_weights_go_and_all_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads model.safetensors before an index: a single file left over would be loaded instead."""
    (tmp_path / "copy").mkdir()
    for name in ("model.safetensors", "model-00009-of-00009.safetensors", "notes.txt"):
        (tmp_path / "copy" / name).write_text("of an older one")
    with monkeypatch.context() as patch:
        patch.setattr(four_bit_copy, "SHARD_BYTES", 20_000)
        copied(tmp_path, llama_config(), "nf4", torch.float32, double=False)
    weights = {path.name for path in (tmp_path / "copy").glob("model*.safetensors")}
    index = json.loads((tmp_path / "copy" / "model.safetensors.index.json").read_text())
    assert weights == set(index["weight_map"].values())
    assert len(weights) > 2
    copied(tmp_path, llama_config(), "nf4", torch.float32, double=False)
    assert {path.name for path in (tmp_path / "copy").glob("model*")} == {"model.safetensors"}
    assert (tmp_path / "copy" / "notes.txt").read_text() == "of an older one"


def test_a_full_disk_is_said_and_leaves_the_older_copy_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(tmp_path, llama_config(), "nf4", torch.float32, double=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}

    def refuse(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    pair = open_pair(str(tmp_path / "full"), str(tmp_path / "full"))
    with pytest.raises(EnvironmentProblemError, match="the disk is full"):
        write_four_bit_copy(
            tmp_path / "copy", pair.original, pair.layers, FourBit("nf4", double_quantization=False), None
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before
