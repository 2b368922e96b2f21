"""What a quantization scheme is, to the rest of Quail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quail_audit.rounded import Rounded as Rounded  # part of the contract, for who writes a scheme

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch  # 1.6 s to import: only where weights are at hand


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of a scheme that rounds blocks of weights, each scaled by its largest magnitude (absmax).

    A weight w of a block with scale a gets the i-th bucket when bounds[i - 1] < w / a <= bounds[i]; the bucket's
    weights all become levels[i] * a, and codes[i] is stored.

    Attributes:
        block_size: weights to a block, in row-major order of the matrix; the last block may be short.
        levels: float32 [k], ascending; from -1 to 1.
        bounds: float32 [k - 1], ascending: what separates the buckets.
        codes: uint8 [k]: the integer that the scheme stores for each level.
    """

    block_size: int
    levels: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Quantized:
    """A rounded weight matrix.

    Attributes:
        codes: uint8 [rows, columns], one code a weight (not packed).
        absmax: float32 [blocks]: each block's scale as the deployed model sees it (after double quantization,
            where the scheme has it).
        dtype: of the weights that were rounded; dequantized values have it too.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    dtype: torch.dtype


class Scheme(ABC):
    """A way to round weight matrices, named as on the command line.

    Attributes:
        name: "nf4".
        title: one line for `quail schemes`.
        bits_per_weight: stored bits a weight, scales included.
        grid: the blocks and buckets it rounds to.
    """

    name: str
    title: str
    bits_per_weight: float
    grid: Grid

    @abstractmethod
    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Round a float32, float16 or bfloat16 matrix [rows, columns] of finite weights, on its own device."""

    @abstractmethod
    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        """The weights that the deployed model computes with: [rows, columns], in the dtype that was rounded."""

    @abstractmethod
    def block_scales(self, absmax: torch.Tensor) -> torch.Tensor:
        """The scales that blocks with these largest magnitudes are dequantized with: float32 [blocks] -> the same.

        The identity, but for schemes that store the scales rounded too (double quantization).
        """
