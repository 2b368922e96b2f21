"""How fast an update is carried without data: the hot loop alone, and with rounding, checking and writing around it."""

import time

import numpy as np
import pytest
import torch

from quail_audit.core.machine import usable_cores
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.carry.data_free import carry_matrix
from quail_train.carry.grid import fixed_grid
from quail_train.carry.kernels import carry_by_chance, carry_with_feedback, is_even, uneven_levels

ROWS, COLUMNS, REPEATS = 2048, 4096, 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4", "rtn-int4-g64", "int8"])
def test_weights_a_second(name: str) -> None:
    """By processor time, so that other processes on the machine have less say; M weights a second of one core."""
    scheme = scheme_named(name)
    original = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    unlearned = original + 0.1 * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    grid, rounded = fixed_grid(unlearned, scheme), scheme.dequantize(scheme.quantize(original)).numpy()
    values, chosen = np.empty((ROWS, COLUMNS), np.float32), np.empty((ROWS, COLUMNS), np.int16)
    levels = grid.levels, is_even(grid.levels), uneven_levels(grid.levels)
    matrices = rounded, original.numpy(), unlearned.numpy()
    of_grid = *levels, grid.unit, grid.blocks, grid.settled, grid.block_size
    rows = 0, ROWS, values, chosen

    def fastest(run: object) -> float:
        times = []
        for _ in range(REPEATS):
            started = time.process_time()
            run()  # type: ignore[operator]
            times.append(time.process_time() - started)
        return original.numel() / min(times[1:]) / 1e6

    cores = usable_cores()
    loops = {
        "random, loop": lambda: carry_by_chance(*matrices, *of_grid, np.uint64(1), *rows),
        "feedback, loop": lambda: carry_with_feedback(*matrices, *of_grid, *rows),
        "random, whole": lambda: carry_matrix(original, unlearned, scheme, way="random", key=1, threads=cores),
        "feedback, whole": lambda: carry_matrix(original, unlearned, scheme, way="feedback", key=1, threads=cores),
    }
    for which, run in loops.items():
        print(f"\n{name}, {which}: {fastest(run):.0f} M weights/s of one core")
    assert np.isfinite(values).all()
