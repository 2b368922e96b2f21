"""What transformers and bitsandbytes save, read back: the codes and the very values that bitsandbytes computes with."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.model.architecture import Matrix
from quail_audit.engine.schemes.registry import scheme_named
from tests.support.tiny_checkpoints import build, gpt2_config, llama_config

DOWN = "model.layers.1.mlp.down_proj"


def dequantized(weight: Any) -> torch.Tensor:
    """A 4-bit weight by bitsandbytes itself. As one row: its loop for CPUs takes the scales of other blocks where rows
    don't end with a block, which those for CUDA and its plain version don't."""
    state = weight.quant_state
    flat = functional.QuantState(
        absmax=state.absmax, shape=torch.Size([1, state.shape.numel()]), code=state.code, blocksize=state.blocksize,
        quant_type=state.quant_type, dtype=state.dtype, offset=state.offset, state2=state.state2,
    )  # fmt: skip
    return functional.dequantize_4bit(weight.data, flat).reshape(state.shape)


def saved(folder: Path, config: Any, dtype: torch.dtype, **settings: Any) -> Any:
    """A tiny model, quantized by transformers and saved; the quantized model."""
    build(config, dtype=dtype).save_pretrained(folder / "full")
    quantization = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "full", quantization_config=quantization, dtype=dtype, device_map="cpu"
    )
    model.save_pretrained(folder / "packed")
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scheme", ["nf4", "fp4", "nf4-dq", "fp4-dq"])
def test_four_bits(tmp_path: Path, scheme: str, dtype: torch.dtype) -> None:
    kind, _, double = scheme.partition("-")
    model = saved(
        tmp_path,
        llama_config(),
        dtype,
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=bool(double),
    )
    checkpoint = open_checkpoint(str(tmp_path / "packed"))
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert list(checkpoint.packed) == [f"{name}.weight" for name in modules]
    assert {matrix.scheme for matrix in checkpoint.packed.values()} == {scheme}
    for name, module in modules.items():
        rounded = checkpoint.packed[f"{name}.weight"].unpack()
        weight: Any = module.weight
        values = dequantized(weight)
        assert rounded.values.dtype == values.dtype == dtype
        assert rounded.values.equal(values)
        assert checkpoint.read_matrix(Matrix(name, transposed=False)).equal(values)
        packed = weight.data.reshape(-1).view(torch.uint8).tolist()
        codes = [nibble for byte in packed for nibble in (byte >> 4, byte & 15)]
        assert rounded.codes.reshape(-1).tolist() == codes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scheme", ["nf4", "fp4-dq", "int8"])
def test_what_is_stored_is_what_the_scheme_makes_of_the_full_weights(
    tmp_path: Path, scheme: str, dtype: torch.dtype
) -> None:
    kind, _, double = scheme.partition("-")
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": bool(double)}
    saved(tmp_path, llama_config(), dtype, **({"load_in_8bit": True} if scheme == "int8" else four_bit))
    full, packed = open_checkpoint(str(tmp_path / "full")), open_checkpoint(str(tmp_path / "packed"))
    rounding = scheme_named(scheme)
    stored = packed.packed[f"{DOWN}.weight"]
    expected = rounding.round(full.read_matrix(Matrix(DOWN, transposed=False)).to(stored.info.dtype))
    rounded = stored.unpack()
    assert rounded.codes.equal(expected.codes)
    assert rounded.values.equal(expected.values)
    assert rounded.widths is not None
    assert expected.widths is not None
    if scheme != "fp4-dq":  # whose buckets are those of the scales before they were rounded, which are not stored
        torch.testing.assert_close(rounded.widths, expected.widths.expand(rounded.widths.shape))


def test_bucket_widths_are_the_distances_between_the_bounds(tmp_path: Path) -> None:
    saved(tmp_path, llama_config(), torch.float32, load_in_4bit=True, bnb_4bit_quant_type="fp4")
    rounded = open_checkpoint(str(tmp_path / "packed")).packed[f"{DOWN}.weight"].unpack()
    absmax = load_file(tmp_path / "packed" / "model.safetensors")[f"{DOWN}.weight.absmax"]
    levels = sorted(functional.get_4bit_type("fp4", device="cpu").tolist())
    middles = [-1.0, *((low + high) / 2 for low, high in pairwise(levels)), 1.0]
    widths = [high - low for low, high in pairwise(middles)]
    assert rounded.widths is not None
    found = rounded.widths.reshape(-1)
    for place in range(0, found.numel(), 37):
        level = float(rounded.values.reshape(-1)[place] / absmax[place // 64])
        nearest = min(range(16), key=lambda i: abs(levels[i] - level))
        if level:  # fp4 has two zeros, side by side
            assert float(found[place]) == pytest.approx(widths[nearest] * float(absmax[place // 64]), rel=1e-5)


def test_eight_bits(tmp_path: Path) -> None:
    model = saved(tmp_path, llama_config(), torch.float16, load_in_8bit=True)
    checkpoint = open_checkpoint(str(tmp_path / "packed"))
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Linear8bitLt)}
    assert list(checkpoint.packed) == [f"{name}.weight" for name in modules]
    assert checkpoint.scheme == "int8"
    for name, module in modules.items():
        weight: Any = module.weight
        rounded = checkpoint.packed[f"{name}.weight"].unpack()
        assert rounded.values.equal(functional.int8_vectorwise_dequant(weight.data, weight.SCB))
        assert (rounded.codes.int() - 127).equal(weight.data.int())
        assert rounded.widths is not None
        assert rounded.widths.shape == weight.data.shape


def test_a_transposed_module_reads_as_the_model_has_it(tmp_path: Path) -> None:
    model = saved(tmp_path, gpt2_config(), torch.float32, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    checkpoint = open_checkpoint(str(tmp_path / "packed"))
    matrix = next(matrix for matrix in checkpoint.layout.rounded if matrix.module.endswith("c_fc"))
    weight = model.get_submodule(matrix.module).weight
    values = dequantized(weight)
    assert matrix.transposed
    assert checkpoint.read_matrix(matrix).equal(values)
    assert checkpoint.read(matrix.parameter).equal(values.T)
    assert checkpoint.packed[matrix.parameter].unpack().values.equal(values)


def test_what_is_found_says_how_it_is_stored(tmp_path: Path) -> None:
    saved(tmp_path, llama_config(), torch.bfloat16, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    full, packed = (open_checkpoint(str(tmp_path / name)) for name in ("full", "packed"))
    assert packed.scheme == "nf4"
    assert packed.facts.format == "bitsandbytes, safetensors"
    assert packed.facts.dtypes == ("nf4",)
    assert packed.facts.parameters == full.facts.parameters
    assert packed.facts.size_bytes < full.facts.size_bytes
    assert full.scheme is None
    assert "quantized already (nf4)" in " ".join(packed.notes)


# What makes no sense


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four_bits")
    saved(folder, llama_config(), torch.bfloat16, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return folder / "packed"


def spoilt(source: Path, folder: Path, name: str, new: torch.Tensor | None) -> str:
    tensors = load_file(source / "model.safetensors")
    del tensors[name]
    if new is not None:
        tensors[name] = new
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return str(folder)


def state(**changes: Any) -> torch.Tensor:
    values = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 96]}
    return torch.tensor(list(json.dumps({**values, **changes}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("part", "new", "said"),
    [
        ("quant_state.bitsandbytes__nf4", state(shape=[10**6, 10**6]), "3072 bytes for 1000000000000 weights"),
        ("quant_state.bitsandbytes__nf4", state(shape=[-64, -96]), "does not describe"),
        ("quant_state.bitsandbytes__nf4", state(shape=[64]), "does not describe"),
        ("quant_state.bitsandbytes__nf4", state(blocksize=0), "does not describe"),
        ("quant_state.bitsandbytes__nf4", state(blocksize=64.5), "does not describe"),
        ("quant_state.bitsandbytes__nf4", state(quant_type="fp4"), "does not describe"),
        ("quant_state.bitsandbytes__nf4", state(dtype="load"), "does not describe"),
        ("quant_state.bitsandbytes__nf4", torch.zeros(1 << 17, dtype=torch.uint8), "131072 bytes"),
        ("quant_state.bitsandbytes__nf4", torch.full((9,), 0xFF, dtype=torch.uint8), "does not describe"),
        ("absmax", torch.zeros(95), r"absmax should be float32 \[96\]"),
        ("absmax", None, "lacks"),
        ("quant_map", torch.zeros(8), r"quant_map should be float32 \[16\]"),
    ],
)
def test_parts_that_do_not_fit_are_bad_input(
    four_bits: Path, tmp_path: Path, part: str, new: torch.Tensor | None, said: str
) -> None:
    source = spoilt(four_bits, tmp_path, f"{DOWN}.weight.{part}", new)
    with pytest.raises(BadInputError, match=said):
        open_checkpoint(source)


def test_levels_that_bitsandbytes_would_not_compute_with_are_bad_input(four_bits: Path, tmp_path: Path) -> None:
    source = spoilt(four_bits, tmp_path, f"{DOWN}.weight.quant_map", torch.linspace(-1, 1, 16))
    with pytest.raises(BadInputError, match="other levels than those of nf4"):
        open_checkpoint(source).packed[f"{DOWN}.weight"].unpack()


def test_blocks_that_say_they_are_larger_than_the_matrix_take_no_more_memory(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    saved(tmp_path, llama_config(), torch.float32, **settings)
    file, name = tmp_path / "packed" / "model.safetensors", f"{DOWN}.weight.quant_state.bitsandbytes__nf4"
    before = open_checkpoint(str(tmp_path / "packed")).packed[f"{DOWN}.weight"].unpack()
    tensors = load_file(file)
    state = json.loads(bytes(tensors[name].tolist()))
    assert tensors[f"{DOWN}.weight.nested_absmax"].numel() == 1
    tensors[name] = torch.tensor(list(json.dumps(state | {"nested_blocksize": 2**39}).encode()), dtype=torch.uint8)
    save_file(tensors, file, metadata={"format": "pt"})
    after = open_checkpoint(str(tmp_path / "packed")).packed[f"{DOWN}.weight"].unpack()
    assert after.values.equal(before.values)
