"""Round to nf4, fp4 and int8 as bitsandbytes 0.50 does, bit for bit.

The exception: bfloat16 values under 1.2e-38, which it keeps or flushes to zero depending on the processor. On a CPU the
codes come from Quail's own loops, many times faster than bitsandbytes' and equal to its result; on other devices, and
for the second rounding of the scales (double quantization), bitsandbytes itself does the work.
Sources: QLoRA (Dettmers et al., arXiv 2305.14314) for nf4 and double quantization; bitsandbytes' functional.py for the
tables and the order of operations.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quail_audit.engine.schemes.affine import AffineScheme, Extremes, Parameters
from quail_audit.engine.schemes.interface import Quantized, Scheme
from quail_audit.engine.schemes.level_table import LevelTable

if TYPE_CHECKING:
    import torch

BLOCK_SIZE = 64  # bitsandbytes' default, which transformers' BitsAndBytesConfig does not change
ABSMAX_BLOCK_SIZE = 256  # of the second rounding, in double quantization

# The 16 values of nf4, in the order of their codes (bitsandbytes.functional.get_4bit_type("nf4")).
_NF4_LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    dtype=np.float32,
)

# The 16 values of fp4 in units of 1/12, in the order of their codes: sign, two bits of exponent, one of mantissa. Two
# codes are zero. Its bounds come from the values in ascending order; of the zeros, code 0 is the lower bucket.
_FP4_TWELFTHS = np.array(
    [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, -0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0], dtype=np.float32
)
_FP4_ASCENDING = np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3], dtype=np.uint8)


def _level_table(
    levels: np.ndarray[Any, np.dtype[np.float32]], codes: np.ndarray[Any, np.dtype[np.uint8]]
) -> LevelTable:
    bounds = (levels[:-1] + levels[1:]) / np.float32(2)  # in float32, as bitsandbytes computes its midpoints
    return LevelTable(block_size=BLOCK_SIZE, levels=levels, bounds=bounds, codes=codes)


LEVEL_TABLES = {
    "nf4": _level_table(_NF4_LEVELS, np.arange(16, dtype=np.uint8)),
    "fp4": _level_table((_FP4_TWELFTHS / np.float32(12))[_FP4_ASCENDING], _FP4_ASCENDING),
}


class FourBit(Scheme):
    """One of bitsandbytes' 4-bit schemes.

    Args:
        kind: "nf4" or "fp4".
        double_quantization: whether the scales are themselves rounded to 8 bits (bnb_4bit_use_double_quant).
    """

    def __init__(self, kind: Literal["nf4", "fp4"], *, double_quantization: bool) -> None:
        self.kind = kind
        self.double_quantization = double_quantization
        self.name = f"{kind}-dq" if double_quantization else kind
        self.grid = LEVEL_TABLES[kind]
        self.block, self.levels = str(BLOCK_SIZE), len(self.grid.levels)
        # 4 bits, and a float32 scale a block; doubly rounded, a byte and a float32 for every 256 of them
        self.bits_per_weight = 4 + (8 + 32 / ABSMAX_BLOCK_SIZE if double_quantization else 32) / BLOCK_SIZE
        scales = "with double-quantized scales" if double_quantization else "as load_in_4bit makes it"
        self.title = f"bitsandbytes 4-bit {'NormalFloat' if kind == 'nf4' else 'float'}, {scales}"

    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Round a matrix on its own device; see Scheme."""
        if weight.device.type == "cpu":
            codes, absmax = _quantize_on_cpu(weight, self.grid)
        else:
            codes, absmax = _quantize_on_device(weight, self.kind)
        return Quantized(codes=codes, scales=self.block_scales(absmax), dtype=weight.dtype)

    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        """Return the deployed weights; see Scheme."""
        if quantized.codes.device.type == "cpu":
            return _dequantize_on_cpu(quantized, self.grid)
        return _dequantize_on_device(quantized, self.grid, self.kind)

    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """See Scheme. The outer buckets end at plus and minus the block's absmax."""
        import torch

        flat = weight.detach().float().reshape(-1)
        blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK_SIZE)).reshape(-1, BLOCK_SIZE)
        absmax = blocks.abs().amax(dim=1).clamp(min=1e-38).repeat_interleave(BLOCK_SIZE)[: flat.numel()]
        of_code = np.empty(self.levels, np.float32)
        of_code[self.grid.codes] = self.grid.widths
        of_weight = torch.from_numpy(of_code).to(weight.device)[quantized.codes.reshape(-1).int()]
        return (of_weight * absmax).reshape(weight.shape)

    def block_scales(self, absmax: torch.Tensor) -> torch.Tensor:
        """Return absmax float32 [blocks] as the deployed model has it: itself rounded in double quantization."""
        if not self.double_quantization:
            return absmax
        functional = bitsandbytes().functional
        offset = absmax.mean()
        rounded, state = functional.quantize_blockwise(absmax - offset, blocksize=ABSMAX_BLOCK_SIZE)
        scales: torch.Tensor = functional.dequantize_blockwise(rounded, state) + offset
        return scales


class Int8(AffineScheme):
    """LLM.int8() (Dettmers et al., arXiv 2208.07339): a row of codes from -127 to 127 under its absmax, from float16.

    The library also rounds the layers' inputs to 8 bits, but for outliers; that is no matter of the weights.
    """

    name = "int8"
    title = "bitsandbytes LLM.int8(), weights by row, as load_in_8bit makes it"
    bits_per_weight = 8.0  # and a float32 a row
    block_size = None
    lowest, highest = -127, 127
    rounding = "even"
    unit = 7.874015718698502e-3  # 1 / 127, as bitsandbytes' int8_vectorwise_dequant has it
    from_float16 = True

    def parameters(self, extremes: Extremes) -> Parameters:
        """See AffineScheme."""
        import torch

        absmax = torch.maximum(-extremes.low, extremes.high).float()
        nothing = torch.zeros_like(absmax)
        inverse = torch.where(absmax == 0, nothing, 127.0 / absmax)
        return Parameters(inverse=inverse, start=nothing, zero=nothing, scale=absmax, base=nothing)


def schemes() -> tuple[Scheme, ...]:
    """Return nf4 and fp4, each with plain and with double-quantized scales, and int8."""
    four_bit = [FourBit(kind, double_quantization=double) for double in (False, True) for kind in ("nf4", "fp4")]
    return (*four_bit, Int8())


@functools.cache
def bitsandbytes() -> Any:
    """The library, 4.6 s to import."""
    import bitsandbytes as library

    return library


def _quantize_on_cpu(weight: torch.Tensor, grid: LevelTable) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    from quail_audit.engine.schemes.absmax_blocks import quantize_blocks

    flat = weight.detach().reshape(-1).float().contiguous().numpy()
    whole = flat.size // grid.block_size
    codes = np.empty(flat.size, np.uint8)
    absmax = np.empty(-(-flat.size // grid.block_size), np.float32)
    full = whole * grid.block_size
    shape = (whole, grid.block_size)
    quantize_blocks(flat[:full].reshape(shape), grid.bounds, grid.codes, codes[:full].reshape(shape), absmax[:whole])
    if full < flat.size:
        rest = flat[full:]
        # bitsandbytes divides in a short last block where it multiplies elsewhere, and keeps the floor of its scale
        absmax[-1] = max(np.abs(rest).max(), np.float32(1e-38))
        codes[full:] = grid.codes[np.searchsorted(grid.bounds, rest / absmax[-1], side="left")]
    return torch.from_numpy(codes).reshape(weight.shape), torch.from_numpy(absmax)


def _dequantize_on_cpu(quantized: Quantized, grid: LevelTable) -> torch.Tensor:
    import torch

    from quail_audit.engine.schemes.absmax_blocks import dequantize_blocks

    by_code = _levels_by_code(grid)
    codes, absmax = quantized.codes.reshape(-1).numpy(), quantized.scales.numpy()
    out = np.empty(codes.size, np.float32)
    whole = codes.size // grid.block_size
    full, shape = whole * grid.block_size, (whole, grid.block_size)
    dequantize_blocks(codes[:full].reshape(shape), by_code, absmax[:whole], out[:full].reshape(shape))
    if full < codes.size:
        out[full:] = by_code[codes[full:]] * absmax[-1]
    return torch.from_numpy(out).reshape(quantized.codes.shape).to(quantized.dtype)


def _levels_by_code(grid: LevelTable) -> np.ndarray[Any, np.dtype[np.float32]]:
    by_code = np.empty_like(grid.levels)
    by_code[grid.codes] = grid.levels
    return by_code


def _quantize_on_device(weight: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    packed, state = bitsandbytes().functional.quantize_4bit(weight.contiguous(), blocksize=BLOCK_SIZE, quant_type=kind)
    packed = packed.reshape(-1)
    codes = torch.stack((packed >> 4, packed & 0xF), dim=1).reshape(-1)  # the first of two weights is in the high half
    return codes[: weight.numel()].reshape(weight.shape), state.absmax


def _dequantize_on_device(quantized: Quantized, grid: LevelTable, kind: str) -> torch.Tensor:
    import torch

    functional = bitsandbytes().functional
    codes = quantized.codes.reshape(-1)
    codes = torch.nn.functional.pad(codes, (0, codes.numel() % 2))
    state = functional.QuantState(
        absmax=quantized.scales,
        shape=quantized.codes.shape,
        code=torch.from_numpy(_levels_by_code(grid)).to(codes.device),
        blocksize=grid.block_size,
        quant_type=kind,
        dtype=quantized.dtype,
    )
    packed = (codes[::2] << 4 | codes[1::2]).reshape(-1, 1)
    values: torch.Tensor = functional.dequantize_4bit(packed, state)
    # a single packed byte is taken for a transposed matrix and comes back as a column
    return values.reshape(quantized.codes.shape)
