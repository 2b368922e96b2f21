"""Count what is not finite in a tensor of any shape, and what differs between two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

WEIGHTS_PER_PIECE = 1 << 18  # of tensors that may be larger than memory; a piece stays in the caches


def count_nonfinite(tensor: torch.Tensor) -> int:
    """Return how many values of a tensor on the CPU are NaN or infinite; whole numbers are none of these.

    Every page is read once, and only a piece of it is ever copied.
    """
    if not tensor.is_floating_point():
        return 0
    return sum(_nonfinite_in(_in_known_type(piece)) for piece in _pieces(tensor))


def count_differing(first: torch.Tensor, second: torch.Tensor) -> int:
    """Return how many values differ bitwise between tensors of one shape on the CPU, once both are of one dtype.

    Two dtypes are compared by value, in float64: a weight that was widened differs only if it was changed as well.
    """
    import torch

    total = 0
    for one, other in zip(_pieces(first), _pieces(second), strict=True):
        if one.dtype != other.dtype:
            one, other = one.to(torch.float64), other.to(torch.float64)
        one, other = _bits(one), _bits(other)
        if not torch.equal(one, other):
            total += int((one != other).sum())
    return total


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), WEIGHTS_PER_PIECE):
        yield flat[start : start + WEIGHTS_PER_PIECE]


def _nonfinite_in(piece: torch.Tensor) -> int:
    low, high = piece.aminmax()  # NaN if one of them is; isfinite() alone would take ten times as long
    return 0 if bool(low.isfinite()) and bool(high.isfinite()) else int((~piece.isfinite()).sum())


def _in_known_type(piece: torch.Tensor) -> torch.Tensor:
    """Widen the 8-bit types, which have no extremes."""
    return piece.float() if piece.element_size() == 1 else piece


def _bits(piece: torch.Tensor) -> torch.Tensor:
    import torch

    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return piece.view(kinds[piece.element_size()])
