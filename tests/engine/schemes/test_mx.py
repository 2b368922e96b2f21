"""mxfp4 and nvfp4 against torchao itself: every code and every dequantized value, on what is most likely to differ."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.inference_workflow import MXDynamicActivationMXWeightConfig, NVFP4WeightOnlyConfig
from torchao.prototype.mx_formats.kernels import unpack_uint4
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization import quantize_

from quail_audit.engine.schemes.mx import MAGNITUDES, Float4, Mxfp4, Nvfp4, schemes

SCHEMES = schemes()
DTYPES = [torch.float32, torch.bfloat16]  # torchao takes no others


def of_torchao(weight: torch.Tensor, scheme: Float4) -> tuple[torch.Tensor, torch.Tensor]:
    """torchao's codes, unpacked, and its dequantized weights."""
    if isinstance(scheme, Mxfp4):
        tensor = MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.RCEIL)
    else:
        tensor = NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=per_tensor_amax_to_scale(weight.abs().max()))
    codes = unpack_uint4(tensor.qdata.view(torch.uint8)).reshape(weight.shape)
    return codes, tensor.dequantize(weight.dtype)


def assert_exact(weight: torch.Tensor, scheme: Float4) -> None:
    codes, values = of_torchao(weight, scheme)
    quantized = scheme.quantize(weight)
    by_value = torch.tensor([*range(8, 16), *range(7, -1, -1)])  # a sign and a magnitude -> the place by value
    assert torch.equal(quantized.codes.long(), by_value[codes.long()])
    dequantized = scheme.dequantize(quantized)
    assert dequantized.dtype == weight.dtype
    assert torch.equal(dequantized, values)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_weights(scheme: Float4, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 256) * 0.02
    weight[1], weight[2], weight[3] = 0.0, weight[2].abs(), -weight[3].abs()
    weight[4], weight[5, 7], weight[6] = 0.01, 5.0, -0.0
    for scale in (1.0, 1e-3, 1e-30, 1e30):
        assert_exact((weight * scale).to(dtype), scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_between_every_two_codes(scheme: Float4, dtype: torch.dtype) -> None:
    """Every level and every middle, and a hair to either side, in blocks whose scale is as given and in others."""
    levels = torch.tensor(MAGNITUDES)
    points = torch.cat([levels, (levels[1:] + levels[:-1]) / 2])
    beside = torch.cat([points, points.nextafter(torch.tensor(9.0)), points.nextafter(torch.tensor(-9.0))])
    both = torch.cat([beside, -beside])
    for scale in (1.0, 0.25, 0.037, 448.0):
        blocks = torch.zeros(both.numel(), scheme.block_size)
        blocks[:, 0], blocks[:, 1] = 6.0, both
        matrix = torch.nn.functional.pad(blocks.reshape(-1), (0, -blocks.numel() % 512)).reshape(16, -1)
        assert_exact((matrix * scale).to(dtype), scheme)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_largest_weights_about_a_power_of_two(dtype: torch.dtype) -> None:
    """Where the logarithm of a block's scale is nearly whole."""
    for exponent in range(-130, 126, 3):
        largest = torch.tensor(6.0 * 2.0**exponent)
        if not largest.isfinite():
            continue
        rows = torch.linspace(-1, 1, 32).repeat(3, 1)
        around = torch.stack(
            [largest, largest.nextafter(torch.tensor(0.0)), largest.nextafter(torch.tensor(torch.inf))]
        )
        assert_exact((rows * around[:, None]).to(dtype), Mxfp4())


@settings(max_examples=150)
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=64, max_size=64),
    large=st.booleans(),
    scheme=st.sampled_from(SCHEMES),
    dtype=st.sampled_from(DTYPES),
)
def test_any_weights(bits: list[int], large: bool, scheme: Float4, dtype: torch.dtype) -> None:
    weight = torch.from_numpy(np.array(bits, np.uint32).view(np.float32).copy())
    weight = torch.where(weight.isfinite(), weight, 0.0).clamp(*((-1e30, 1e30) if large else (-4.0, 4.0)))
    weight[0] = 1e-3  # of a matrix of zeros torchao makes NaN
    assert_exact(weight.to(dtype).repeat(8).reshape(16, 32), scheme)


def test_these_are_the_weights_that_torchaos_configurations_deploy() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32, bias=False)
    weight = linear.weight.detach().clone()
    quantize_(linear, NVFP4WeightOnlyConfig())
    assert torch.equal(Nvfp4().dequantize(Nvfp4().quantize(weight)), linear.weight.dequantize())
    linear = torch.nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    weight, four_bit = linear.weight.detach().clone(), torch.float4_e2m1fn_x2
    config = MXDynamicActivationMXWeightConfig(weight_dtype=four_bit, activation_dtype=four_bit)
    quantize_(linear, config)
    assert torch.equal(Mxfp4().dequantize(Mxfp4().quantize(weight)), linear.weight.dequantize())


def test_float16_is_widened() -> None:
    weight = (torch.randn(16, 64) * 0.02).half()
    for scheme in SCHEMES:
        assert torch.equal(scheme.quantize(weight).codes, scheme.quantize(weight.float()).codes)
        values = scheme.dequantize(scheme.quantize(weight))
        assert values.dtype == torch.float16
        assert torch.equal(values, scheme.dequantize(scheme.quantize(weight.float())).half())


def test_a_matrix_of_zeros_stays_zero() -> None:
    for scheme in SCHEMES:
        rounded = scheme.round(torch.zeros(16, 32))
        assert not rounded.values.any()
        assert rounded.widths is not None
        assert (rounded.widths > 0).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_a_bucket_is_as_wide_as_the_weights_that_get_its_code(scheme: Float4) -> None:
    """Weights tried one after another in a matrix whose scales stay as they are."""
    tried = torch.linspace(-6, 6, 48_001)
    rows = torch.zeros(tried.numel() + 15, 32)[: tried.numel() // 16 * 16]
    rows[:, ::16], rows[:, 1] = 6.0, tried[: len(rows)]
    quantized = scheme.quantize(rows)
    codes, widths = quantized.codes[:, 1], scheme.bucket_widths(rows, quantized)[:, 1]
    step = 12 / 48_000
    for code in range(16):
        found = int((codes == code).sum()) * step
        assert float(widths[codes == code][0]) == pytest.approx(found, abs=3 * step)


@pytest.mark.parametrize(
    ("scheme", "shape"),
    [(Mxfp4(), (16, 48)), (Nvfp4(), (16, 40)), (Nvfp4(), (8, 32))],
    ids=["mxfp4", "nvfp4-columns", "nvfp4-rows"],
)
def test_matrices_that_do_not_divide_are_left_alone(scheme: Float4, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    assert str(shape[1]) in scheme.why_left_alone(*shape)
    assert scheme.deployed_weights(weight) is weight
    with pytest.raises(ValueError, match=str(shape[1])):
        scheme.quantize(weight)
    assert not scheme.why_left_alone(16, 64)


def test_stored_bits_are_what_torchao_stores() -> None:
    weight = torch.randn(64, 256)
    mx = MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.RCEIL)
    nv = NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=per_tensor_amax_to_scale(weight.abs().max()))
    for scheme, tensor in ((Mxfp4(), mx), (Nvfp4(), nv)):
        stored = tensor.qdata.numel() + tensor.scale.numel()
        assert scheme.bits_per_weight == stored * 8 / weight.numel()
