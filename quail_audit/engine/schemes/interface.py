"""Define the contract of a quantization scheme, Quail's own or a plug-in's.

A package adds a scheme through the entry point group quail.schemes: a callable without arguments that returns a Scheme,
which may be the class itself. See docs/schemes.md for a whole package.
"""

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
    """A weight matrix as a scheme stores it. All tensors are on the device of the weights.

    Attributes:
        codes: uint8 [rows, columns], one code for each weight, not packed; a plug-in numbers them from 0 in the order
            of the levels.
        scales: float32 [blocks], each block's scale as the deployed model sees it; blocks in row-major order.
        dtype: dtype of the weights that were rounded, and of the dequantized values.
        zeros: float32 [blocks], the code that stands for zero in each block; None if the levels say it.
        bases: float32 [blocks], what is added to every value of a block; None for nothing.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype
    zeros: torch.Tensor | None = None
    bases: torch.Tensor | None = None


class Scheme(ABC):
    """A way to round weight matrices that needs nothing but the matrix: no texts, no other layers.

    A subclass sets the attributes and implements quantize, dequantize and bucket_widths. All three must be
    deterministic, because both checkpoints of a pair go through them and equal codes count as equal.

    Example, which keeps the sign of each weight and one magnitude for each row:

        class Sign(Scheme):
            name = "sign"
            title = "the sign of each weight, by row"
            bits_per_weight = 1.0  # and a float32 for each row
            block = "row"
            levels = 2

            def quantize(self, weight):
                return Quantized((weight > 0).to(torch.uint8), weight.float().abs().mean(dim=1), weight.dtype)

            def dequantize(self, quantized):
                signs = 2 * quantized.codes.float() - 1
                return (signs * quantized.scales[:, None]).to(quantized.dtype)

            def bucket_widths(self, weight, quantized):
                return quantized.scales.clamp(min=1e-38)[:, None].expand(weight.shape)

    Attributes:
        name: name on the command line and in reports: "nf4".
        title: one line for `quail schemes`.
        bits_per_weight: stored bits for each weight, scales included.
        block: the weights that share a scale, in words: "64", "row".
        levels: number of codes, at most 256. Transitions between levels are counted up to 16.
    """

    name: str
    title: str
    bits_per_weight: float
    block: str
    levels: int

    @abstractmethod
    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Round a matrix on its own device.

        Args:
            weight: float32, float16 or bfloat16 [rows, columns], all finite, of a shape that why_left_alone accepts.
        """

    @abstractmethod
    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        """Return the weights that the deployed model computes with: [rows, columns], in quantized.dtype."""

    @abstractmethod
    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """Return the width of each weight's bucket, the interval of weights that get the same code.

        Args:
            weight: as given to quantize.
            quantized: what quantize made of it.

        Returns:
            float32 [rows, columns], in units of the weights, above zero also in a block of zeros.
        """

    def install_command(self) -> str:
        """Return the command that installs what this machine lacks to run the scheme; empty if it lacks nothing."""
        return ""

    def why_left_alone(self, rows: int, columns: int) -> str:
        """Say why the scheme's library leaves a matrix of this shape in full precision; empty if it is rounded."""
        return ""

    def deployed_weights(self, weight: torch.Tensor) -> torch.Tensor:
        """Return what the deployed model has in a matrix's place: rounded weights, or these if they are left alone."""
        return weight if self.why_left_alone(*weight.shape) else self.dequantize(self.quantize(weight))

    def round(self, weight: torch.Tensor) -> RoundedMatrix:
        """Return the codes, values and bucket widths of a matrix; see quantize."""
        quantized = self.quantize(weight)
        return RoundedMatrix(quantized.codes, self.dequantize(quantized), self.bucket_widths(weight, quantized))


@dataclass(frozen=True)
class ByLayer:
    """A scheme for each layer.

    Attributes:
        name: name of the whole in reports: the format that most weights are stored in.
        schemes: layer -> the scheme that rounds it.
    """

    name: str
    schemes: Mapping[str, Scheme]
