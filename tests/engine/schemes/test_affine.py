"""rtn, gguf and int8 against the libraries that make them: every code and every dequantized value."""

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchao.quantization.quant_primitives import MappingType
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import IntxUnpackedToInt8Tensor

from quail_audit.core.errors import UsageError
from quail_audit.engine.schemes import rtn
from quail_audit.engine.schemes.affine import AffineScheme
from quail_audit.engine.schemes.bitsandbytes import Int8, bitsandbytes
from quail_audit.engine.schemes.gguf import BLOCK_SIZE, Gguf
from quail_audit.engine.schemes.gguf import schemes as gguf_schemes
from quail_audit.engine.schemes.registry import known_schemes, scheme_named
from quail_audit.engine.schemes.rtn import RoundToNearest

RTN = [
    RoundToNearest(bits, group, asymmetric=asymmetric)
    for bits in rtn.BITS
    for group in (*rtn.GROUPS, None)
    for asymmetric in (False, True)
]
SCHEMES: list[AffineScheme] = [*RTN, *gguf_schemes(), Int8()]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def of_library(weight: torch.Tensor, scheme: AffineScheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The library's own codes, counted from its lowest, and its dequantized weights."""
    if isinstance(scheme, RoundToNearest):
        tensor: Any = IntxUnpackedToInt8Tensor.from_hp(
            weight,
            (1, scheme.block_size or weight.shape[1]),
            getattr(torch, f"int{scheme.levels.bit_length() - 1}"),
            mapping_type=MappingType.ASYMMETRIC if scheme.asymmetric else MappingType.SYMMETRIC,
        )
        return tensor.qdata.int() - scheme.lowest, tensor.dequantize()
    if isinstance(scheme, Gguf):
        kind = gguf.GGMLQuantizationType[scheme.name.removeprefix("gguf-").upper()]
        packed = gguf.quantize(weight.float().numpy(), kind)
        values = torch.from_numpy(gguf.dequantize(packed, kind)).to(weight.dtype)
        return unpacked(packed, scheme.name).reshape(weight.shape), values
    functional = bitsandbytes().functional
    codes, stats, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
    return codes.int() - scheme.lowest, functional.int8_vectorwise_dequant(codes, stats).to(weight.dtype)


def unpacked(packed: np.ndarray, name: str) -> torch.Tensor:
    """The codes of llama.cpp's blocks, one weight after another, by ggml-common.h's layout of block_q…."""
    start_of = {"gguf-q4_0": 2, "gguf-q4_1": 4, "gguf-q5_0": 6, "gguf-q5_1": 8, "gguf-q8_0": 2}
    size = start_of[name] + (32 if name == "gguf-q8_0" else 16)
    found = []
    for block in packed.reshape(-1, size).tolist():
        stored = block[start_of[name] :]
        if name == "gguf-q8_0":
            found += [(byte - 256 if byte > 127 else byte) + 127 for byte in stored]
            continue
        codes = [byte & 15 for byte in stored] + [byte >> 4 for byte in stored]
        if "q5" in name:
            high = block[start_of[name] - 4 : start_of[name]]
            codes = [code | (high[place // 8] >> (place % 8) & 1) << 4 for place, code in enumerate(codes)]
        found += codes
    return torch.tensor(found)


def assert_exact(weight: torch.Tensor, scheme: AffineScheme) -> None:
    codes, values = of_library(weight, scheme)
    quantized = scheme.quantize(weight)
    assert torch.equal(quantized.codes.int(), codes.int())
    dequantized = scheme.dequantize(quantized)
    assert dequantized.dtype == weight.dtype
    assert torch.equal(dequantized, values)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_weights(scheme: AffineScheme, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 256) * 0.02
    weight[1], weight[2], weight[3] = 0.0, weight[2].abs(), -weight[3].abs()
    weight[4] = 0.01  # constant
    weight[5, ::2] = -weight[5, 1::2]  # every extreme twice, with both signs
    weight[6, 7] = 5.0  # an outlier
    assert_exact(weight.to(dtype), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_between_every_two_codes(scheme: AffineScheme, dtype: torch.dtype) -> None:
    """Whole and half steps, and a hair to either side, under scales that are powers of two and others."""
    steps = torch.arange(-scheme.levels, scheme.levels + 1, 1) / 2
    beside = torch.stack([steps, torch.nextafter(steps, torch.tensor(9e9)), torch.nextafter(steps, torch.tensor(-9e9))])
    flat = beside.flatten()
    row = torch.nn.functional.pad(flat, (0, -flat.numel() % 128)).reshape(1, -1)
    for scale in (1.0, 0.25, 0.037, -0.037):
        assert_exact((row * scale).to(dtype), scheme)


@settings(max_examples=100)
@given(
    values=st.lists(st.floats(-30000, 30000, width=16), min_size=128, max_size=128),  # a range that float16 holds
    tiny=st.booleans(),
    scheme=st.sampled_from(SCHEMES),
    dtype=st.sampled_from(DTYPES),
)
def test_any_weights(values: list[float], tiny: bool, scheme: AffineScheme, dtype: torch.dtype) -> None:
    weight = torch.tensor([values, values[::-1]]) * (1e-3 if tiny else 1.0)
    assert_exact(weight.to(dtype), scheme)


@pytest.mark.parametrize("scheme", gguf_schemes(), ids=lambda scheme: scheme.name)
def test_blocks_too_small_for_the_package_are_zeros(scheme: Gguf) -> None:
    weight = torch.linspace(-1, 1, BLOCK_SIZE).reshape(1, -1) * 1e-40
    assert float(scheme.dequantize(scheme.quantize(weight)).abs().max()) == 0.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_stored_bits_are_what_the_library_stores(scheme: AffineScheme) -> None:
    weight = torch.randn(64, 4096)
    if isinstance(scheme, Gguf):
        kind = gguf.GGMLQuantizationType[scheme.name.removeprefix("gguf-").upper()]
        assert scheme.bits_per_weight == gguf.quantize(weight.numpy(), kind).nbytes * 8 / weight.numel()
    elif scheme.block_size is None:
        assert scheme.bits_per_weight == scheme.levels.bit_length() - 1 if isinstance(scheme, RoundToNearest) else 8
    else:
        assert isinstance(scheme, RoundToNearest)
        codes, kept = scheme.levels.bit_length() - 1, 16 + 8 * scheme.asymmetric
        assert scheme.bits_per_weight == codes + kept / scheme.block_size


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_a_bucket_is_as_wide_as_the_weights_that_get_its_code(scheme: AffineScheme) -> None:
    """The distance at which the code of a weight changes, found by trying weights one after another."""
    weight = torch.zeros(1, 128)
    weight[0, :2] = torch.tensor([-1.0, 1.0])  # sets the scale of the first block
    tried = torch.linspace(-0.9, 0.9, 20_001)
    rows = weight.repeat(len(tried), 1)
    rows[:, 2] = tried
    codes = scheme.quantize(rows).codes[:, 2].int()
    places = (codes[1:] != codes[:-1]).nonzero().flatten()
    width = float(scheme.bucket_widths(rows, scheme.quantize(rows))[0, 2])
    if len(places) > 1:
        steps = tried[places].diff()
        assert float(steps.mean()) == pytest.approx(width, rel=0.01)
    else:
        assert width > 0.6  # two bits: four codes over two units


@pytest.mark.parametrize("name", [scheme.name for scheme in RTN])
def test_every_form_of_the_name_is_known(name: str) -> None:
    assert scheme_named(name).name == name


def test_short_names_mean_groups_of_128() -> None:
    assert scheme_named("rtn-int4").name == "rtn-int4-g128"
    assert scheme_named("rtn-int4-asym").name == "rtn-int4-g128-asym"


@pytest.mark.parametrize("name", ["rtn-int5-g128", "rtn-int4-g100", "rtn-int4-g128-channel", "rtn-int4-g128-sym"])
def test_names_that_are_not_are_refused_with_the_grammar(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        scheme_named(name)
    assert rtn.GRAMMAR in str(caught.value.mend)


def test_rows_that_do_not_divide_are_left_alone_and_said_so() -> None:
    weight = torch.randn(4, 100)
    for scheme in known_schemes():
        why = scheme.why_left_alone(4, 100)
        if why:
            assert "100" in why
            assert scheme.deployed_weights(weight) is weight
            with pytest.raises(ValueError, match="100"):
                scheme.quantize(weight)
        else:
            assert not torch.equal(scheme.deployed_weights(weight), weight)
    assert scheme_named("gguf-q4_0").why_left_alone(4, 100)
    assert not scheme_named("int8").why_left_alone(4, 100)
