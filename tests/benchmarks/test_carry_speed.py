"""How fast an update is carried without data: the hot loop alone, and with rounding, checking and writing around it."""

import time

import numpy as np
import pytest
import torch

from quail_audit.environment import usable_cores
from quail_audit.schemes.registry import scheme_named
from quail_train.carry import carried
from quail_train.carry_kernels import carry_by_chance, carry_with_feedback
from quail_train.held_grid import held_grid

ROWS, COLUMNS, REPEATS = 2048, 4096, 3


@pytest.mark.slow
def test_weights_a_second() -> None:
    scheme = scheme_named("nf4")
    original = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    unlearned = original + 0.1 * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    grid, rounded = held_grid(unlearned, scheme), scheme.dequantize(scheme.quantize(original)).numpy()
    values, chosen = np.empty((ROWS, COLUMNS), np.float32), np.empty((ROWS, COLUMNS), np.int16)
    matrices = rounded, original.numpy(), unlearned.numpy()
    of_grid = grid.levels, grid.unit, grid.blocks, grid.settled, grid.block_size

    def fastest(run: object) -> float:
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            run()  # type: ignore[operator]
            times.append(time.perf_counter() - started)
        return original.numel() / min(times[1:]) / 1e6

    loops = {
        "random, loop, one core": lambda: carry_by_chance(*matrices, *of_grid, np.uint64(1), 0, ROWS, values, chosen),
        "feedback, loop, one core": lambda: carry_with_feedback(*matrices, *of_grid, 0, ROWS, values, chosen),
        "random, whole": lambda: carried(original, unlearned, scheme, way="random", key=1, threads=usable_cores()),
        "feedback, whole": lambda: carried(original, unlearned, scheme, way="feedback", key=1, threads=usable_cores()),
    }
    for name, run in loops.items():
        print(f"\n{name}: {fastest(run):.0f} M weights/s")
    assert np.isfinite(values).all()
