"""Fix a scheme's grid on a matrix, and mend the blocks that do not round back as chosen.

A carried weight is written as the exact value that its code dequantizes to. Rounding the matrix to nearest then gives
the same codes again, as long as each block keeps the weight that sets its scale. Which level a weight gets is decided
in data_free.py and compensation.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.schemes.affine import AffineScheme
    from quail_audit.engine.schemes.bitsandbytes import FourBit
    from quail_audit.engine.schemes.interface import Quantized, Scheme

    CarriableScheme = FourBit | AffineScheme  # schemes whose levels, and what sets a block's scale, are known

F32 = npt.NDArray[np.float32]
LAST_PLACE = 2.0**-7  # relative size of a bfloat16's last bit


@dataclass(frozen=True, eq=False)
class FixedGrid:
    """The grid of a matrix [rows, columns] under its own scales.

    Attributes:
        scheme: scheme of the grid.
        weight: the matrix, in its stored dtype.
        nearest: the matrix rounded to nearest.
        levels: float32 [k], ascending, no two equal.
        codes: uint8 [k], the stored code of each level.
        unit: constant factor of all values.
        blocks: float32 [blocks, 5]: scale, zero, base, lowest and highest weight. Weights at those ends stay, as they
            set the scale. A level stands for (level - zero) * scale * unit + base, clamped to the ends.
        settled: bool [blocks], blocks that lie on the grid already, and stay as they are.
        block_size: weights in a block, in row-major order of the matrix; the last block may be short.
    """

    scheme: CarriableScheme
    weight: torch.Tensor
    nearest: Quantized
    levels: F32
    codes: npt.NDArray[np.uint8]
    unit: np.float32
    blocks: F32
    settled: npt.NDArray[np.bool_]
    block_size: int


@dataclass(frozen=True, eq=False)
class CarriedMatrix:
    """A carried matrix.

    Attributes:
        weight: [rows, columns], in the dtype of the unlearned matrix.
        moved: weights with another code than rounding the unlearned matrix to nearest gives them.
        blocks: number of blocks.
        mended_blocks: blocks that did not round back as chosen, and hold the unlearned matrix rounded to nearest.
        output_error: squared change that rounding makes to the layer's outputs, as a share of the change that rounding
            to nearest makes; None if not measured.
    """

    weight: torch.Tensor
    moved: int
    blocks: int
    mended_blocks: int
    output_error: float | None = None


def fixed_grid(weight: torch.Tensor, scheme: CarriableScheme) -> FixedGrid:
    """Return the grid of a matrix [rows, columns] on the CPU, in its stored dtype."""
    import torch

    from quail_audit.engine.schemes.bitsandbytes import FourBit
    from quail_audit.engine.schemes.rtn import RoundToNearest

    nearest = scheme.quantize(weight)
    nothing = torch.zeros_like(nearest.scales)
    if isinstance(scheme, FourBit):
        # fp4 has two zeros: keep the one of the lower bucket
        levels, first = np.unique(scheme.grid.levels, return_index=True)
        codes, unit, block_size = scheme.grid.codes[first], 1.0, scheme.grid.block_size
        zeros = bases = nothing
    else:
        # torchao's symmetric scale puts the lowest level below the smallest weight, where no weight can go
        unused = isinstance(scheme, RoundToNearest) and not scheme.asymmetric
        levels = np.arange(scheme.lowest + unused, scheme.highest + 1, dtype=np.float32)
        codes = (np.arange(len(levels)) + unused).astype(np.uint8)
        unit, block_size = scheme.unit, scheme.block_size or weight.shape[1]
        zeros = nothing if nearest.zeros is None else nearest.zeros
        bases = nothing if nearest.bases is None else nearest.bases
    wide = weight.float()
    low, high = _block_minima(wide, block_size), _block_maxima(wide, block_size)
    if _is_even_sided(scheme):
        high = torch.maximum(-low, high)
        low = -high
    inside = (wide > spread_blocks(low, weight.shape, block_size)) & (
        wide < spread_blocks(high, weight.shape, block_size)
    )
    off_grid = split_into_blocks((scheme.dequantize(nearest) != weight) & inside, block_size)
    return FixedGrid(
        scheme=scheme,
        weight=weight,
        nearest=nearest,
        levels=levels,
        codes=codes,
        unit=np.float32(unit),
        blocks=torch.stack((nearest.scales, zeros, bases, low, high), dim=1).numpy(),
        settled=(~off_grid.any(dim=1)).numpy(),
        block_size=block_size,
    )


def _is_even_sided(scheme: CarriableScheme) -> bool:
    """Return True if a block's largest magnitude sets its scale; False if its smallest and largest weight do."""
    from quail_audit.engine.schemes.gguf import Gguf
    from quail_audit.engine.schemes.rtn import RoundToNearest

    offsets = (isinstance(scheme, RoundToNearest) and scheme.asymmetric) or (
        isinstance(scheme, Gguf) and scheme.offsets
    )
    return not offsets


def _block_minima(weight: torch.Tensor, block_size: int) -> torch.Tensor:
    return -_block_maxima(-weight, block_size)


def _block_maxima(weight: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return each block's largest weight: [blocks]."""
    return split_into_blocks(weight, block_size, fill=float("-inf")).amax(dim=1)


def split_into_blocks(matrix: torch.Tensor, block_size: int, *, fill: float = 0.0) -> torch.Tensor:
    """Return a matrix [rows, columns] as [blocks, block size]; a short last block is filled up."""
    from torch.nn.functional import pad

    flat = matrix.reshape(-1)
    return pad(flat, (0, -flat.numel() % block_size), value=fill).reshape(-1, block_size)


def mend_blocks(grid: FixedGrid, values: F32, chosen: npt.NDArray[Any]) -> CarriedMatrix:
    """Return the carried matrix in its stored dtype, and mend each block that does not round back as chosen.

    A mended block gets the unlearned matrix rounded to nearest. If not even that rounds back, it stays as it was.

    Args:
        grid: grid of the unlearned matrix.
        values: float32 [rows, columns], the chosen values.
        chosen: [rows, columns], numbers of the chosen levels; negative where a weight keeps its own value.
    """
    import torch

    nearest = grid.nearest.codes
    levels = torch.from_numpy(chosen)
    codes = torch.where(levels < 0, nearest, torch.from_numpy(grid.codes)[levels.clamp(min=0).long()])
    weight = torch.from_numpy(values).to(grid.weight.dtype)
    # dequantized by the scheme itself: some multiply in the weights' own dtype, which changes the last bit
    exact = grid.scheme.dequantize(replace(grid.nearest, codes=codes)).to(grid.weight.dtype)
    low, high = (spread_blocks(torch.from_numpy(grid.blocks[:, end]), weight.shape, grid.block_size) for end in (3, 4))
    is_exact = (levels >= 0) & (low < exact) & (exact < high) & torch.isclose(weight, exact, rtol=LAST_PLACE, atol=0.0)
    weight = torch.where(is_exact, exact, weight)
    wrong = _wrong_blocks(grid, weight, codes)
    mended_blocks = int(wrong.sum())
    for instead in (grid.scheme.dequantize(grid.nearest), grid.weight):
        if not wrong.any():
            break
        mended = spread_blocks(wrong, weight.shape, grid.block_size)
        changed = torch.where(mended, instead, weight), torch.where(mended, nearest, codes)
        still_wrong = _wrong_blocks(grid, *changed)
        if (still_wrong & ~wrong).any():  # scales that are rounded together moved with this one
            continue
        (weight, codes), wrong = changed, still_wrong
    return CarriedMatrix(
        weight=weight,
        moved=int((codes != nearest).sum()),
        blocks=len(grid.blocks),
        mended_blocks=mended_blocks,
    )


def deployed_update(
    original: torch.Tensor, unlearned: torch.Tensor, carried: torch.Tensor, scheme: Scheme
) -> tuple[float | None, float | None]:
    """Return survival and noise of the deployed update, Q(carried) - Q(original), against the wanted update.

    The formulas are those of docs/metrics.md. None if there is no update.
    """
    update = (unlearned.float() - original.float()).reshape(-1)
    deployed = [scheme.dequantize(scheme.quantize(side)).float().reshape(-1) for side in (carried, original)]
    rounded = deployed[0] - deployed[1]
    asked, dot, squared = (
        float(a.double() @ b.double()) for a, b in ((update, update), (rounded, update), (rounded,) * 2)
    )
    if asked == 0.0:
        return None, None
    return dot / asked, math.sqrt(max(0.0, squared / asked - (dot / asked) ** 2))


def _wrong_blocks(grid: FixedGrid, weight: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return bool [blocks]: True if rounding to nearest gives another code or scale than was chosen."""
    found = grid.scheme.quantize(weight)
    other_codes = split_into_blocks(found.codes != codes, grid.block_size).any(dim=1)
    wrong = other_codes | (found.scales != grid.nearest.scales)
    for side, asked in ((found.zeros, grid.nearest.zeros), (found.bases, grid.nearest.bases)):
        if side is not None and asked is not None:
            wrong |= side != asked
    return wrong


def spread_blocks(values: torch.Tensor, shape: torch.Size, block_size: int) -> torch.Tensor:
    """Repeat each block's value for its weights: [blocks] -> [rows, columns]."""
    rows, columns = shape
    return values.repeat_interleave(block_size)[: rows * columns].reshape(rows, columns)
