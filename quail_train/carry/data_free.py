"""Carry one matrix's update without data: the result no longer changes when it is rounded.

Rounding to nearest loses an update that stays inside its buckets. Here each weight's target is the rounded original
plus the update, and the weight goes to one of the two levels around it: at random, so that the expected change is the
update itself, or to the nearer level, with the row's error carried on.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np

from quail_train.carry.grid import CarriedMatrix, fixed_grid, mend_blocks

if TYPE_CHECKING:
    import torch

    from quail_train.carry.grid import CarriableScheme

WEIGHTS_PER_THREAD = 1 << 16  # fewer are not worth a second thread

DataFreeWay = Literal["random", "feedback"]


def key_of(seed: int, layer: str) -> int:
    """Return the 64-bit key of one layer's draws."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {layer}".encode(), digest_size=8).digest(), "little")


def carry_matrix(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: CarriableScheme,
    *,
    way: DataFreeWay,
    key: int,
    threads: int = 1,
) -> CarriedMatrix:
    """Carry one matrix's update.

    Args:
        original, unlearned: [rows, columns] on the CPU, float32, float16 or bfloat16, finite.
        scheme: scheme that will round the result.
        way: "random" is unbiased: the expected change of each weight is its update, as far as the grid reaches.
            "feedback" is deterministic: along each row the changes add up to the updates.
        key: key of the draws; not used by "feedback".
        threads: number of threads. The result does not depend on it.

    Returns:
        Weights on the scheme's grid, each block with the scale it has in the unlearned matrix.
    """
    from quail_train.carry.kernels import LANES, carry_by_chance, carry_with_feedback, is_even, uneven_levels

    grid = fixed_grid(unlearned, scheme)
    wide = original.float()
    rounded = scheme.dequantize(scheme.quantize(wide)).numpy()
    o, u = wide.contiguous().numpy(), unlearned.float().contiguous().numpy()
    values, chosen = np.empty_like(u), np.empty(u.shape, np.int16)
    levels = grid.levels, is_even(grid.levels), uneven_levels(grid.levels)
    workers = max(1, min(threads, u.shape[0] // LANES, u.size // WEIGHTS_PER_THREAD))
    edges = [u.shape[0] * worker // workers for worker in range(workers + 1)]

    def run(worker: int) -> None:
        matrices = rounded, o, u
        grid_arguments = *levels, grid.unit, grid.blocks, grid.settled, grid.block_size
        rows_and_results = edges[worker], edges[worker + 1], values, chosen
        if way == "random":
            carry_by_chance(*matrices, *grid_arguments, np.uint64(key), *rows_and_results)
        else:
            carry_with_feedback(*matrices, *grid_arguments, *rows_and_results)

    if workers == 1:
        run(0)
    else:
        with ThreadPoolExecutor(workers) as pool:  # the loops release the interpreter's lock
            list(pool.map(run, range(workers)))
    return mend_blocks(grid, values, chosen)
