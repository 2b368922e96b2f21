"""nf4 and fp4 against bitsandbytes itself: every code and every dequantized value, on what is most likely to differ."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quail_audit.engine.schemes.bitsandbytes import (
    BLOCK_SIZE,
    FourBit,
    _dequantize_on_device,
    _quantize_on_device,
    bitsandbytes,
)
from quail_audit.engine.schemes.bitsandbytes import schemes as bitsandbytes_schemes
from quail_audit.engine.schemes.interface import Quantized

SCHEMES = [scheme for scheme in bitsandbytes_schemes() if isinstance(scheme, FourBit)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Shapes with whole blocks only, with a short last block, with an odd number of weights, and smaller than a block.
SHAPES = [(64, 128), (3, 64), (5, 33), (7, 10), (1, 1), (129, 72)]


def reference(weight: torch.Tensor, scheme: FourBit) -> tuple[torch.Tensor, torch.Tensor]:
    """bitsandbytes' codes, unpacked, and its dequantized weights."""
    functional = bitsandbytes().functional
    packed, state = functional.quantize_4bit(
        weight, quant_type=scheme.kind, compress_statistics=scheme.double_quantization
    )
    halves = torch.stack((packed.flatten() >> 4, packed.flatten() & 15), dim=1).flatten()
    # a single packed byte is taken for a transposed matrix and comes back as a column
    values = functional.dequantize_4bit(packed, state).reshape(weight.shape)
    return halves[: weight.numel()].reshape(weight.shape), values


def assert_exact(weight: torch.Tensor, scheme: FourBit) -> None:
    codes, values = reference(weight, scheme)
    quantized = scheme.quantize(weight)
    assert torch.equal(quantized.codes, codes)
    dequantized = scheme.dequantize(quantized)
    assert dequantized.dtype == weight.dtype
    # Bit for bit, but that the two zeros of a float are one, and that bitsandbytes makes a bfloat16 under 1.2e-38 zero
    # on processors with AVX512-BF16 and keeps it on others: there both must be that small.
    differ = dequantized != values
    if weight.dtype == torch.bfloat16:
        differ &= torch.maximum(dequantized.abs(), values.abs()) > torch.finfo(torch.bfloat16).smallest_normal
    assert not differ.any()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_weights(scheme: FourBit, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    assert_exact((torch.randn(shape) * 0.02).to(dtype), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_at_every_bound(scheme: FourBit, dtype: torch.dtype) -> None:
    """Weights on each bound and a step to either side of it, in blocks whose scale is 1 and in others."""
    bounds = torch.from_numpy(scheme.grid.bounds)
    beside = torch.cat(
        [bounds, torch.nextafter(bounds, torch.tensor(9.0)), torch.nextafter(bounds, torch.tensor(-9.0))]
    )
    for scale in (1.0, -1.0, 0.75, 3.0, 1e-3, 0.02):
        for size in (BLOCK_SIZE, 46):  # a whole block, and a short one
            block = torch.zeros(1, size)
            block[0, :45] = beside[:45] * scale
            block[0, 45] = scale
            assert_exact(block.to(dtype), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_zeros_and_of_subnormal_weights(scheme: FourBit, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    for largest in (0.0, tiny, tiny / 2, tiny / 64, 1e-38, 9.9e-39, 1e-40, 1e-45):
        for size in (2 * BLOCK_SIZE, BLOCK_SIZE + 6, 6):
            assert_exact((torch.linspace(-1, 1, size).reshape(1, -1) * largest).to(dtype), scheme)
    assert_exact(torch.full((2, BLOCK_SIZE), -0.0, dtype=dtype), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_the_largest_weights(scheme: FourBit) -> None:
    if not scheme.double_quantization:  # the mean of such scales overflows, in bitsandbytes too
        assert_exact(torch.linspace(-1, 1, 128).reshape(2, 64) * 3e38, scheme)
    assert_exact(torch.linspace(-65504, 65504, 128).reshape(2, 64).half(), scheme)


@settings(max_examples=150)
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300),
    scheme=st.sampled_from(SCHEMES),
    dtype=st.sampled_from(DTYPES),
)
def test_any_finite_weights(bits: list[int], scheme: FourBit, dtype: torch.dtype) -> None:
    weight = torch.from_numpy(np.array(bits, np.uint32).view(np.float32).copy()).to(dtype)
    weight = torch.where(weight.isfinite(), weight, torch.zeros_like(weight)).reshape(1, -1)
    if scheme.double_quantization:  # the mean of enormous scales overflows in bitsandbytes too
        weight = weight.clamp(-1e4, 1e4)
    assert_exact(weight, scheme)


def test_what_bitsandbytes_calls_its_default() -> None:
    """load_in_4bit without more is fp4, block 64, plain scales: the scheme named fp4 here."""
    weight = torch.randn(8, 64)
    packed, state = bitsandbytes().functional.quantize_4bit(weight)
    assert (state.quant_type, state.blocksize, state.nested) == ("fp4", 64, False)
    codes = torch.stack((packed.flatten() >> 4, packed.flatten() & 15), dim=1).reshape(8, 64)
    fp4 = next(scheme for scheme in SCHEMES if scheme.name == "fp4")
    assert torch.equal(fp4.quantize(weight).codes, codes)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_stored_bits_are_what_bitsandbytes_stores(scheme: FourBit) -> None:
    weight = torch.randn(1024, 1024)
    packed, state = bitsandbytes().functional.quantize_4bit(
        weight, quant_type=scheme.kind, compress_statistics=scheme.double_quantization
    )
    stored_bytes = packed.numel() + state.absmax.numel() * state.absmax.element_size()
    if scheme.double_quantization:
        stored_bytes += state.state2.absmax.numel() * 4
    assert scheme.bits_per_weight == pytest.approx(stored_bytes * 8 / weight.numel())


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packing_for_other_devices(scheme: FourBit, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """What is handed to bitsandbytes' kernels on a GPU, handed to its kernels for a CPU."""
    torch.manual_seed(0)
    weight = (torch.randn(shape) * 0.02).to(dtype)
    codes, values = reference(weight, scheme)
    unpacked, absmax = _quantize_on_device(weight, scheme.kind)
    assert torch.equal(unpacked, codes)
    quantized = Quantized(codes=unpacked, scales=scheme.block_scales(absmax), dtype=dtype)
    assert torch.equal(_dequantize_on_device(quantized, scheme.grid, scheme.kind), values)


@pytest.mark.cuda
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu_the_codes_are_bitsandbytes_own(scheme: FourBit, dtype: torch.dtype) -> None:
    weight = (torch.randn(129, 72, device="cuda") * 0.02).to(dtype)
    codes, values = reference(weight, scheme)
    quantized = scheme.quantize(weight)
    assert torch.equal(quantized.codes, codes)
    assert torch.allclose(scheme.dequantize(quantized), values, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=0)
