"""Unpack codes of a few bits from the 32-bit words of GPTQ, AWQ and compressed-tensors.

All three fill a word from its low bits up; only 3-bit codes straddle words, 32 of them in three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack int32 [rows, words] to uint8 [rows, words * 32 // bits]: rows of 2, 3, 4 or 8-bit codes."""
    import torch

    data = words.contiguous().view(torch.uint8).reshape(words.shape[0], -1)
    if bits == 8:
        return data
    if bits in (2, 4):
        steps = torch.arange(0, 8, bits, dtype=torch.uint8)
        codes = (data.unsqueeze(-1) >> steps) & ((1 << bits) - 1)
        return codes.reshape(words.shape[0], -1)
    # Three bytes hold eight 3-bit codes.
    first, second, third = (data[:, start::3].to(torch.int32) for start in range(3))
    stream = first | second << 8 | third << 16
    codes = (stream.unsqueeze(-1) >> torch.arange(0, 24, 3, dtype=torch.int32)) & 7
    return codes.to(torch.uint8).reshape(words.shape[0], -1)


def words_for(codes: int, bits: int) -> int:
    """Return how many 32-bit words hold so many codes."""
    return -(-codes * bits // 32)
