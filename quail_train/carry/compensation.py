"""Rounding that looks at what a layer does: GPTQ's error compensation onto a scheme's own grid, every scale held.

A column's rounding error is made good in the columns after it, as far as the layer's inputs let it (Frantar et al.,
arXiv 2210.17323: the update by the inverse Hessian's Cholesky factor, in batches of columns). What the unlearned layer
does to its inputs survives, and with it the update. Not here: where the inputs come from (calibration.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from quail_train.carry.grid import HeldGrid, Written, of_blocks, written
from quail_train.carry.kernels import HIGH, LOW

if TYPE_CHECKING:
    import numpy.typing as npt

DAMPING = 0.01  # of the Hessian's mean diagonal, GPTQ's own default
COLUMNS_AT_ONCE = 128  # of lazy updates, as in the paper; has no say in the result


def compensated(grid: HeldGrid, hessian: torch.Tensor) -> Written:
    """Round a matrix so that its outputs change least; never worse than rounding to nearest on the inputs given.

    Args:
        grid: of the unlearned matrix [rows, columns].
        hessian: float32 [columns, columns], the sum of x x' over the inputs x.

    Returns:
        The matrix on its grid. Where compensation does not lower the output error, that is the nearest rounding.
    """
    if not hessian.any():
        return _nearest(grid)
    values, chosen = _rounded(grid, _inverse_factor(hessian))
    found = written(grid, values.numpy(), chosen)
    nearest = grid.scheme.dequantize(grid.nearest)
    errors = [output_error(side, grid.weight, hessian) for side in (found.weight, nearest)]
    if errors[0] > errors[1]:
        return replace(_nearest(grid), output_error=1.0)
    return replace(found, output_error=errors[0] / errors[1] if errors[1] > 0 else 1.0)


def _nearest(grid: HeldGrid) -> Written:
    """The nearest rounding, but for what sets a scale: where that lies on no level, a rounded one would set another."""
    own, nearest = grid.weight.float(), grid.scheme.dequantize(grid.nearest).float()
    low, high = (of_blocks(torch.from_numpy(grid.blocks[:, end]), own.shape, grid.block_size) for end in (LOW, HIGH))
    values = torch.where((low < own) & (own < high), nearest.clamp(low, high), own)
    return written(grid, values.numpy(), np.full(own.shape, -1, np.int16))


def output_error(rounded: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor) -> float:
    """The squared difference that rounding makes to the outputs, summed over rows and inputs."""
    difference = rounded.float() - weight.float()
    return float(((difference @ hessian).double() * difference.double()).sum())


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse: [columns, columns]."""
    damped = hessian.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _rounded(grid: HeldGrid, factor: torch.Tensor) -> tuple[torch.Tensor, npt.NDArray[np.int16]]:
    """The values [rows, columns] that are chosen column by column, and the numbers of their levels (-1: its own)."""
    own = grid.weight.float()
    weight, rows, columns = own.clone(), *own.shape
    values, chosen = torch.empty_like(own), np.empty((rows, columns), np.int16)
    first_of_row = torch.arange(rows) * columns
    levels = torch.from_numpy(grid.levels)
    bounds = (levels[1:] + levels[:-1]) / 2
    scales, zeros, bases, lows, highs = torch.from_numpy(grid.blocks).unbind(dim=1)
    unit = float(grid.unit)
    fixed = torch.from_numpy(grid.settled) | (scales == 0)
    for start in range(0, columns, COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, columns)
        errors = torch.empty(rows, end - start)
        for column in range(start, end):
            block = (first_of_row + column).div(grid.block_size, rounding_mode="floor")
            scale, zero, base, low, high = (side[block] for side in (scales, zeros, bases, lows, highs))
            level = torch.bucketize((weight[:, column] - base) / (scale * unit) + zero, bounds)
            value = ((levels[level] - zero) * scale * unit + base).clamp(low, high)
            keeps = fixed[block] | (own[:, column] <= low) | (own[:, column] >= high)
            value = torch.where(keeps, own[:, column], value)
            values[:, column] = value
            chosen[:, column] = torch.where(keeps, -1, level).numpy()
            error = (weight[:, column] - value) / factor[column, column]
            weight[:, column:end] -= torch.outer(error, factor[column, column:end])
            errors[:, column - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return values, chosen
