"""Round to 4-bit floats under 8-bit block scales (mxfp4, nvfp4), as torchao 0.18 does.

The codes equal torchao's.
mxfp4 is what MXDynamicActivationMXWeightConfig with weight_dtype=torch.float4_e2m1fn_x2 makes of weights: blocks of 32,
whose scales are powers of two, rounded up (RCEIL). nvfp4 is NVFP4WeightOnlyConfig: blocks of 16, whose scales are e4m3
floats under one float32 a matrix. torchao takes float32 and bfloat16; float16 weights are widened, which is exact.
Not here: the inputs of layers, which some of torchao's configurations round too.
Sources: torchao/prototype/mx_formats (mx_tensor.py, nvfp4_tensor.py); OCP Microscaling Formats 1.0 for e2m1 and e8m0.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from quail_audit.engine.schemes.interface import Quantized, Scheme

if TYPE_CHECKING:
    import torch

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of e2m1, in the order of its bits without the sign
LARGEST = MAGNITUDES[-1]
_BOUNDS = tuple((low + high) / 2 for low, high in pairwise(MAGNITUDES))
# The outer buckets end at the largest magnitude; zero has a bucket on either side, as it has two codes.
_WIDTHS = tuple(high - low for low, high in zip((0.0, *_BOUNDS), (*_BOUNDS, LARGEST), strict=True))

_EXPONENT_BIAS = 127  # of e8m0: a scale's byte is its exponent plus this
_SMALLEST_SCALE, _LARGEST_SCALE = 2.0**-6, 448.0  # of e4m3: its smallest normal number, and its largest
_SMALLEST_WIDTH = 1e-38  # of a bucket in a block of zeros, so that an update over it is a number


class BlockScales(NamedTuple):
    """Factors of weights before they are rounded, and of values after: float32 [blocks] each."""

    inverse: torch.Tensor
    scale: torch.Tensor


class Float4(Scheme):
    """The base of both: a scaled weight becomes the nearest e2m1 float; of two as near, the one with an even code.

    Codes are numbered by value here: 0 for -6 to 15 for 6, of which 7 and 8 are the two zeros.
    """

    levels = 16
    block_size: int

    @abstractmethod
    def scales_of(self, blocks: torch.Tensor) -> BlockScales:
        """Return the scales of float32 blocks [blocks, block size], all of one matrix."""

    @property
    def block(self) -> str:  # type: ignore[override]
        """See Scheme."""
        return str(self.block_size)

    def why_left_alone(self, rows: int, columns: int) -> str:
        """See Scheme."""
        if columns % self.block_size == 0:
            return ""
        return f"rows of {columns} weights do not divide into blocks of {self.block_size}"

    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Round a matrix on its own device; see Scheme.

        Raises:
            ValueError: the scheme leaves such a matrix alone.
        """
        import torch

        if why := self.why_left_alone(*weight.shape):
            raise ValueError(why)
        blocks = weight.detach().float().reshape(-1, self.block_size)
        inverse, scale = self.scales_of(blocks)
        scaled = (blocks * inverse[:, None]).clamp(-LARGEST, LARGEST)
        bounds = torch.tensor(_BOUNDS, device=weight.device)
        bounds[1::2] = bounds[1::2].nextafter(torch.zeros_like(bounds[1::2]))  # where a tie belongs to the bucket above
        magnitude = torch.bucketize(scaled.abs(), bounds)
        codes = torch.where(scaled.signbit(), 7 - magnitude, 8 + magnitude)
        return Quantized(codes=codes.to(torch.uint8).reshape(weight.shape), scales=scale, dtype=weight.dtype)

    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        """The deployed weights; see Scheme."""
        import torch

        ascending = [-magnitude for magnitude in reversed(MAGNITUDES)] + list(MAGNITUDES)
        values = torch.tensor(ascending, device=quantized.codes.device)[quantized.codes.int()]
        scaled = values.reshape(-1, self.block_size) * quantized.scales[:, None]
        return scaled.to(quantized.dtype).reshape(quantized.codes.shape)

    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """See Scheme."""
        import torch

        ascending = torch.tensor([*reversed(_WIDTHS), *_WIDTHS], device=quantized.codes.device)
        widths = ascending[quantized.codes.int()].reshape(-1, self.block_size) * quantized.scales[:, None]
        return widths.clamp(min=_SMALLEST_WIDTH).reshape(weight.shape)


class Mxfp4(Float4):
    """OCP's MXFP4."""

    name = "mxfp4"
    title = "MXFP4: 4-bit floats under powers of two, over blocks of 32, as torchao makes it"
    block_size = 32
    bits_per_weight = 4 + 8 / 32

    def scales_of(self, blocks: torch.Tensor) -> BlockScales:
        """See Float4. Operation by operation torchao's, as a logarithm may be rounded down to a whole number."""
        import torch

        fitting = blocks.abs().amax(dim=1) / LARGEST
        exponent = fitting.log2().ceil().clamp(-_EXPONENT_BIAS, _EXPONENT_BIAS)
        # weights of blocks under the smallest scale are rounded unscaled, to zero
        inverse = torch.where(exponent == -_EXPONENT_BIAS, 1.0, (-exponent).exp2())
        return BlockScales(inverse, exponent.exp2())


class Nvfp4(Float4):
    """NVIDIA's NVFP4. torchao makes NaN of a matrix of zeros; here it stays zero."""

    name = "nvfp4"
    title = "NVFP4: 4-bit floats under 8-bit floats, over blocks of 16, as torchao makes it"
    block_size = 16
    bits_per_weight = 4 + 8 / 16  # and a float32 a matrix

    def why_left_alone(self, rows: int, columns: int) -> str:
        """See Scheme."""
        if rows % self.block_size == 0 and columns % self.block_size == 0:
            return ""
        return f"a matrix of {rows} rows of {columns} does not divide into blocks of {self.block_size} both ways"

    def scales_of(self, blocks: torch.Tensor) -> BlockScales:
        """See Float4."""
        import torch

        largest = blocks.abs().amax(dim=1)
        of_matrix = largest.max() / (_LARGEST_SCALE * LARGEST)
        if not bool((1 / of_matrix).isfinite()):
            return BlockScales(torch.zeros_like(largest), torch.zeros_like(largest))
        fitting = (largest / LARGEST / of_matrix).clamp(_SMALLEST_SCALE, _LARGEST_SCALE)
        kept = fitting.to(torch.float8_e4m3fn).float()
        return BlockScales(1.0 / of_matrix / kept, of_matrix * kept)


def schemes() -> tuple[Float4, ...]:
    """Return both schemes."""
    return (Mxfp4(), Nvfp4())
