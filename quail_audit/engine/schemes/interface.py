"""What a quantization scheme is, to the rest of Quail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch  # 1.6 s to import: only where weights are at hand


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight matrix as a scheme stores it.

    Attributes:
        codes: uint8 [rows, columns], one code a weight (not packed).
        scales: float32 [blocks]: each block's scale as the deployed model sees it, in row-major order of the blocks.
        dtype: of the weights that were rounded; dequantized values have it too.
        zeros: float32 [blocks]: the code that stands for zero; None where the scheme's levels say it.
        bases: float32 [blocks]: what is added to every value of a block; None for nothing.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype
    zeros: torch.Tensor | None = None
    bases: torch.Tensor | None = None


class Scheme(ABC):
    """A way to round weight matrices that looks at nothing but the matrix, named as on the command line.

    Attributes:
        name: "nf4".
        title: one line for `quail schemes`.
        bits_per_weight: stored bits a weight, scales included.
        block: the weights that share a scale, in words: "64", "row".
        levels: how many codes there are, at most 256.
    """

    name: str
    title: str
    bits_per_weight: float
    block: str
    levels: int

    @abstractmethod
    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Round a float32, float16 or bfloat16 matrix [rows, columns] of finite weights, on its own device."""

    @abstractmethod
    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        """The weights that the deployed model computes with: [rows, columns], in the dtype that was rounded."""

    @abstractmethod
    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """How wide the interval of weights is that get each weight's code: float32 [rows, columns], above zero."""

    def install_command(self) -> str:
        """The command that installs what this machine lacks to run the scheme; empty: it lacks nothing."""
        return ""

    def why_left_alone(self, rows: int, columns: int) -> str:
        """Why a matrix of this shape is left in full precision, as the scheme's library does; empty: it is rounded."""
        return ""

    def deployed_weights(self, weight: torch.Tensor) -> torch.Tensor:
        """What the deployed model has in a matrix's place: the rounded weights, or these where they are left alone."""
        return weight if self.why_left_alone(*weight.shape) else self.dequantize(self.quantize(weight))

    def round(self, weight: torch.Tensor) -> RoundedMatrix:
        """A matrix as it is deployed; see quantize."""
        quantized = self.quantize(weight)
        return RoundedMatrix(quantized.codes, self.dequantize(quantized), self.bucket_widths(weight, quantized))


@dataclass(frozen=True)
class ByLayer:
    """Which scheme rounds which layer.

    Attributes:
        name: of the whole, as reports have it: the format that most weights are stored in.
        schemes: layer -> what rounds it.
    """

    name: str
    schemes: Mapping[str, Scheme]
