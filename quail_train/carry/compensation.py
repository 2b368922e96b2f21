"""Round a layer with GPTQ's error compensation onto a scheme's own grid, every scale fixed.

The columns after a column make up for its rounding error, as far as the layer's inputs allow (Frantar et al., arXiv
2210.17323: the update by the inverse Hessian's Cholesky factor, in batches of columns). The unlearned layer's outputs
survive, and with them the update. The inputs come from calibration.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from quail_train.carry.grid import CarriedMatrix, FixedGrid, mend_blocks, spread_blocks
from quail_train.carry.kernels import HIGH, LOW

if TYPE_CHECKING:
    import numpy.typing as npt

DAMPING = 0.01  # share of the Hessian's mean diagonal; GPTQ's own default
COLUMNS_AT_ONCE = 128  # lazy updates, as in the paper; does not affect the result


def compensate(grid: FixedGrid, hessian: torch.Tensor) -> CarriedMatrix:
    """Round a matrix so that its outputs change least; never worse than rounding to nearest on the given inputs.

    Args:
        grid: grid of the unlearned matrix [rows, columns].
        hessian: float32 [columns, columns], the sum of x x' over the inputs x.

    Returns:
        The matrix on its grid; rounded to nearest if compensation does not lower the output error.
    """
    if not hessian.any():
        return _round_to_nearest(grid)
    values, chosen = _round_columns(grid, _inverse_factor(hessian))
    found = mend_blocks(grid, values.numpy(), chosen)
    nearest = grid.scheme.dequantize(grid.nearest)
    errors = [output_error(side, grid.weight, hessian) for side in (found.weight, nearest)]
    if errors[0] > errors[1]:
        return replace(_round_to_nearest(grid), output_error=1.0)
    return replace(found, output_error=errors[0] / errors[1] if errors[1] > 0 else 1.0)


def _round_to_nearest(grid: FixedGrid) -> CarriedMatrix:
    """Round to nearest, except the weights that set a scale: a rounded one might set another scale."""
    own, nearest = grid.weight.float(), grid.scheme.dequantize(grid.nearest).float()
    low, high = (
        spread_blocks(torch.from_numpy(grid.blocks[:, end]), own.shape, grid.block_size) for end in (LOW, HIGH)
    )
    values = torch.where((low < own) & (own < high), nearest.clamp(low, high), own)
    return mend_blocks(grid, values.numpy(), np.full(own.shape, -1, np.int16))


def output_error(rounded: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor) -> float:
    """Return the squared change that rounding makes to the outputs, summed over rows and inputs."""
    difference = rounded.float() - weight.float()
    return float(((difference @ hessian).double() * difference.double()).sum())


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the damped Hessian's inverse: [columns, columns]."""
    damped = hessian.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _round_columns(grid: FixedGrid, factor: torch.Tensor) -> tuple[torch.Tensor, npt.NDArray[np.int16]]:
    """Choose values [rows, columns] column by column. Return them and their levels' numbers (-1: its own value)."""
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
