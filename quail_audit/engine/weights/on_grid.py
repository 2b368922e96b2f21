"""Find the blocks of an unlearned matrix that lie on a scheme's grid: rounding takes nothing from them.

Such a block was rounded before, by quail carry or because a packed checkpoint was unpacked, so most of its update is
the rounding error of that time. Survival, which compares the update with what rounding leaves of it, would take that
error for an update that is lost. So survival and noise are those of the other blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from quail_audit.engine.schemes.affine import AffineScheme
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.interface import Scheme
from quail_audit.engine.schemes.mx import Mxfp4
from quail_audit.engine.weights.sums import PairSums

if TYPE_CHECKING:
    import torch

ROWS_TRIED = 16  # spread over the matrix: if no block of theirs lies on the grid, the others are not looked at
FLAT_ROW = 4096  # weights in such a row if blocks are cut from the matrix as a whole; a multiple of a block
WEIGHTS_PER_PIECE = 1 << 20


def leave_out_on_grid(sums: PairSums, original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme) -> PairSums:
    """Return sums of which those that survival and noise are made of leave out the blocks on the grid.

    Args:
        sums: of the pair under the scheme, over all blocks.
        original, unlearned, scheme: as in pair_sums.
    """
    if not sums.is_finite or sums.identical == sums.weights or not _some_lie_on_grid(unlearned, scheme):
        return sums
    size = _block_size(scheme, unlearned)
    rounded = [scheme.dequantize(scheme.quantize(side)) for side in (original, unlearned)]
    last_lies = False
    on_grid, dot, update_squared, rounded_squared = 0, 0.0, 0.0, 0.0
    for o, u, rounded_o, rounded_u in zip(
        *(_pieces(side, size) for side in (original, unlearned, *rounded)), strict=True
    ):
        changed = o != u
        lies = _lies_on_grid(u, rounded_u)
        lies &= 2 * (changed & (rounded_u == u)).sum(dim=1) > changed.sum(dim=1)
        on_grid += int(lies.sum()) * size
        last_lies = bool(lies[-1])
        update, rest = (u - o)[~lies].reshape(-1), (rounded_u - rounded_o)[~lies].reshape(-1)
        dot += float(rest @ update)
        update_squared += float(update @ update)
        rounded_squared += float(rest @ rest)
    if not on_grid:
        return sums
    return replace(
        sums,
        on_grid=on_grid - (-sums.weights % size if last_lies else 0),  # a short last block was filled up
        dot=dot,
        update_squared=update_squared,
        rounded_squared=rounded_squared,
    )


def _some_lie_on_grid(unlearned: torch.Tensor, scheme: Scheme) -> bool:
    """Tell whether any of a few blocks lies on the grid."""
    import torch

    matrix, size = unlearned, _block_size(scheme, unlearned)
    if isinstance(scheme, FourBit) and matrix.numel() > FLAT_ROW:
        matrix = matrix.reshape(-1)[: matrix.numel() // FLAT_ROW * FLAT_ROW].reshape(-1, FLAT_ROW)
    is_separable = isinstance(scheme, AffineScheme | Mxfp4) or (
        isinstance(scheme, FourBit) and not scheme.double_quantization
    )
    if is_separable and matrix.shape[0] > ROWS_TRIED:
        rows = torch.linspace(0, matrix.shape[0] - 1, ROWS_TRIED, dtype=torch.float64).long()
        matrix = matrix[rows.to(matrix.device)]
    elif not is_separable:  # a block's scale depends on the others, or may
        matrix = unlearned
    rounded = scheme.dequantize(scheme.quantize(matrix))
    pieces = zip(_pieces(matrix, size), _pieces(rounded, size), strict=True)
    return any(bool(_lies_on_grid(weight, value).any()) for weight, value in pieces)


def _block_size(scheme: Scheme, weight: torch.Tensor) -> int:
    """Return how many weights of a matrix, in row-major order, share a scale; a row if a scheme does not tell."""
    if isinstance(scheme, FourBit):
        return scheme.grid.block_size
    size: int | None = getattr(scheme, "block_size", None)
    return size or weight.shape[1]


def _lies_on_grid(weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Tell of each block whether rounding changes none of its weights but the outermost, which set its scale.

    Args:
        weight, rounded: [blocks, block size].

    Returns:
        bool [blocks].
    """
    largest = weight.abs().amax(dim=1, keepdim=True)
    is_outermost = (weight.abs() == largest) | (weight == weight.amin(dim=1, keepdim=True))
    is_outermost |= weight == weight.amax(dim=1, keepdim=True)
    return ((rounded == weight) | is_outermost).all(dim=1)


def _pieces(matrix: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield some blocks at a time, float64 [blocks, block size] on the CPU; a short last one is filled with zeros."""
    import torch

    flat = matrix.reshape(-1)
    step = max(1, WEIGHTS_PER_PIECE // size) * size
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step].cpu().to(torch.float64)
        yield torch.nn.functional.pad(piece, (0, -piece.numel() % size)).reshape(-1, size)
