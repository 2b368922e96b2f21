"""Round to evenly spaced levels: a value is a code times a scale.

A code is a rounded quotient. A family computes in `parameters` what rounds a block; the rest is here, in plain torch
operations on any device. weights/affine_kernel.py does the same over a pair on a CPU, in one pass.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple

from quail_audit.engine.schemes.interface import Quantized, Scheme

if TYPE_CHECKING:
    import torch

# A quotient becomes the nearest code, of two as near the even one or the one farther from zero; or a shift is added and
# the fraction cut off.
Rounding = Literal["even", "away", "cut"]

SMALLEST_WIDTH = 1e-38  # of a bucket in a block of zeros, so that an update over it is a number


class Extremes(NamedTuple):
    """The extremes of each block's weights: [blocks] each, in the dtype that parameters are computed in.

    Attributes:
        low, high: the smallest and the largest.
        farthest: the weight farthest from zero, with its sign; the first of several.
    """

    low: torch.Tensor
    high: torch.Tensor
    farthest: torch.Tensor


class Parameters(NamedTuple):
    """The numbers that round each block: float32 [blocks] each. See AffineScheme."""

    inverse: torch.Tensor
    start: torch.Tensor
    zero: torch.Tensor
    scale: torch.Tensor
    base: torch.Tensor

    @property
    def width(self) -> torch.Tensor:
        """Width of the blocks' buckets, in units of the weights."""
        import torch

        # a block whose quotients are all zero has no buckets to speak of
        return torch.where(self.inverse == 0, SMALLEST_WIDTH, 1 / self.inverse.abs()).clamp(min=SMALLEST_WIDTH)


class AffineScheme(Scheme):
    """A scheme with evenly spaced levels in each block, which lies within a row.

    quotient = (weight - start) * inverse; code = the quotient rounded + zero, or cut(quotient + shift), kept between
    lowest and highest; value = (code - zero) * scale * unit + base, in the weights' dtype. Stored codes count from the
    lowest.

    Attributes:
        block_size: weights in a block; None: a whole row.
        lowest, highest: the range of codes.
        rounding: how quotients are rounded.
        shift: what is added to quotients before they are cut.
        unit: a constant that values are multiplied by, in float32.
        in_weights_dtype: whether quotients are computed in the weights' dtype, as the library does; else in float32.
        from_float16: whether weights are cast to float16 first.
        offsets: whether blocks have a start and a base; else both are zero.
    """

    block_size: int | None
    lowest: int
    highest: int
    rounding: Rounding
    shift: float = 0.0
    unit: float = 1.0
    in_weights_dtype: bool = False
    from_float16: bool = False
    offsets: bool = False

    @abstractmethod
    def parameters(self, extremes: Extremes) -> Parameters:
        """Return what rounds blocks of these extremes."""

    @property
    def levels(self) -> int:  # type: ignore[override]
        """See Scheme."""
        return self.highest - self.lowest + 1

    @property
    def block(self) -> str:  # type: ignore[override]
        """See Scheme."""
        return "row" if self.block_size is None else str(self.block_size)

    def why_left_alone(self, rows: int, columns: int) -> str:
        """See Scheme."""
        if self.block_size is None or columns % self.block_size == 0:
            return ""
        return f"rows of {columns} weights do not divide into blocks of {self.block_size}"

    def blocks_of(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the matrix as blocks [blocks, block size], in the dtype whose extremes decide.

        Raises:
            ValueError: the scheme leaves such a matrix alone.
        """
        if why := self.why_left_alone(weight.numel() // weight.shape[-1], weight.shape[-1]):
            raise ValueError(why)
        blocks = weight.detach().reshape(-1, self.block_size or weight.shape[-1])
        return blocks.to(self.dtype_of_extremes(weight.dtype))

    def dtype_of_extremes(self, stored: torch.dtype) -> torch.dtype:
        """Return the dtype that extremes of weights of a dtype are cast to before parameters are computed."""
        import torch

        if self.from_float16:
            return torch.float16
        return stored if self.in_weights_dtype else torch.float32

    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Round a matrix on its own device; see Scheme."""
        import torch

        blocks = self.blocks_of(weight)
        found = self.parameters(extremes_of(blocks))
        quotient = (blocks.float() - found.start[:, None]) * found.inverse[:, None]
        if self.in_weights_dtype:
            quotient = quotient.to(weight.dtype).float()
        if self.rounding == "cut":
            code = (quotient + self.shift).trunc()
        else:
            code = (quotient.round() if self.rounding == "even" else _round_away_from_zero(quotient)) + found.zero[
                :, None
            ]
        code = code.clamp(self.lowest, self.highest) - self.lowest
        return Quantized(
            codes=code.to(torch.uint8).reshape(weight.shape),
            scales=found.scale,
            dtype=weight.dtype,
            zeros=found.zero,
            bases=found.base,
        )

    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        """The deployed weights; see Scheme."""
        assert quantized.zeros is not None  # noqa: S101 - quantize() gives them
        assert quantized.bases is not None  # noqa: S101
        steps = quantized.codes.reshape(quantized.scales.numel(), -1).float() + self.lowest - quantized.zeros[:, None]
        values = steps * quantized.scales[:, None] * self.unit + quantized.bases[:, None]
        return values.to(quantized.dtype).reshape(quantized.codes.shape)

    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """See Scheme."""
        blocks = self.blocks_of(weight)
        width = self.parameters(extremes_of(blocks)).width
        return width[:, None].expand(blocks.shape).reshape(weight.shape)


def extremes_of(blocks: torch.Tensor) -> Extremes:
    """Return the extremes of blocks [blocks, block size]."""
    farthest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)).flatten()
    return Extremes(blocks.amin(dim=1), blocks.amax(dim=1), farthest)


def _round_away_from_zero(quotient: torch.Tensor) -> torch.Tensor:
    """Round to the nearest whole number; of two as near, to the one farther from zero."""
    whole, part = quotient.abs().floor(), quotient.abs().frac()
    return (whole + (2 * part).floor()).copysign(quotient)
