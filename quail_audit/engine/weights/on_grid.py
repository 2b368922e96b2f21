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
WEIGHTS_TRIED = 512  # of such a row, or a block if it is larger, and then a quarter of the rows
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
    """Tell whether any of a few blocks lies on the grid; if their scales depend on the others, whether any may."""
    size = _block_size(scheme, unlearned)
    if isinstance(scheme, FourBit):
        sample = _spread_sample(unlearned, size)
        if scheme.double_quantization:
            ordered = _as_blocks(sample, size).sort(dim=1).values
            distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
            return bool((distinct <= scheme.levels + 2).any())  # the levels, and an outermost weight on each side
    else:
        sample = _spread_sample(unlearned, size) if isinstance(scheme, AffineScheme | Mxfp4) else unlearned
    rounded = scheme.dequantize(scheme.quantize(sample))
    return bool(_lies_on_grid(_as_blocks(sample, size), _as_blocks(rounded, size)).any())


def _spread_sample(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Return whole blocks of some rows, spread over the matrix: [rows, columns]."""
    import torch

    columns = max(size, WEIGHTS_TRIED // size * size)
    flat = matrix.reshape(-1)
    count = min(ROWS_TRIED if columns <= WEIGHTS_TRIED else ROWS_TRIED // 4, flat.numel() // columns)
    if count == 0:
        return matrix
    blocks = flat.numel() // size
    starts = torch.linspace(0, blocks - columns // size, count, dtype=torch.float64).long().tolist()
    return torch.stack([flat[start * size : start * size + columns] for start in starts])


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
    """Yield some blocks at a time, float64 [blocks, block size] on the CPU."""
    import torch

    flat = matrix.reshape(-1)
    step = max(1, WEIGHTS_PER_PIECE // size) * size
    for start in range(0, flat.numel(), step):
        yield _as_blocks(flat[start : start + step].cpu().to(torch.float64), size)


def _as_blocks(weights: torch.Tensor, size: int) -> torch.Tensor:
    """Return weights as blocks [blocks, block size]; a short last one is filled with zeros."""
    import torch

    flat = weights.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)
