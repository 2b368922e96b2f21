"""Round to llama.cpp's formats of blocks of 32 (gguf-q…), as the package gguf 0.19 does.

It equals gguf.quants in every code and value. llama.cpp's own C code rounds alike but for ties that depend on its
compiler. A row that does not divide into blocks stays in 16 bits there and is left alone here.
Not here: K-quants, which are made by search; GGUF files that hold them are read (checkpoints/packed).
Source: gguf/quants.py, and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quail_audit.engine.schemes.affine import AffineScheme, Extremes, Parameters

if TYPE_CHECKING:
    import torch

BLOCK_SIZE = 32


class Gguf(AffineScheme):
    """The base of the formats: scales are kept as float16, quotients are computed in float32 with the unrounded one.

    Args:
        bits: bits of a code.
        offsets: whether a block has a smallest value of its own (q4_1, q5_1), rather than a zero (q4_0, q5_0, q8_0).
    """

    block_size = BLOCK_SIZE

    def __init__(self, bits: int, *, offsets: bool) -> None:
        self.offsets = offsets
        self.name = f"gguf-q{bits}_{int(offsets)}"
        self.bits_per_weight = bits + (2 if offsets else 1) * 16 / BLOCK_SIZE
        self.title = f"llama.cpp's {self.name.removeprefix('gguf-').upper()}, {bits} bits over blocks of {BLOCK_SIZE}"
        self.is_even_sided = bits == 8
        if self.is_even_sided:
            self.lowest, self.highest, self.rounding = -127, 127, "away"
        else:
            self.lowest, self.highest, self.rounding = 0, (1 << bits) - 1, "cut"
            self.shift = 0.5 if offsets else (1 << (bits - 1)) + 0.5

    def parameters(self, extremes: Extremes) -> Parameters:
        """See AffineScheme."""
        import torch

        low, high = extremes.low, extremes.high
        nothing = torch.zeros_like(low)
        start = base = zero = nothing
        if self.offsets:
            step = (high - low) / self.highest
            start, base = low, _round_to_float16(low)
        elif self.is_even_sided:
            step = torch.maximum(-low, high) / self.highest
        else:
            half = (self.highest + 1) // 2
            step = extremes.farthest / -half
            zero = torch.full_like(low, half)
        # The inverse of a step under 3e-39 is infinite; what the package makes of that depends on the processor.
        inverse = torch.where((1 / step).isfinite(), 1 / step, nothing)
        return Parameters(inverse=inverse, start=start, zero=zero, scale=_round_to_float16(step), base=base)


def _round_to_float16(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to float16, as a file keeps them."""
    import torch

    return scales.to(torch.float16).float()


def schemes() -> tuple[Gguf, ...]:
    """Return q4_0, q4_1, q5_0, q5_1 and q8_0."""
    return (
        *(Gguf(bits, offsets=offsets) for bits in (4, 5) for offsets in (False, True)),
        Gguf(8, offsets=False),
    )
