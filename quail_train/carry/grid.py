"""A scheme's grid on one matrix, with every block's scale held: where its weights may go, and whether they came back.

A carried weight is written as the very value that its code is dequantized to. Whoever rounds the matrix to nearest then
gets these codes again, as long as each block keeps the weight that sets its scale. What does not come back is mended
here. Not here: which level a weight gets (carry.py).
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

    Carriable = FourBit | AffineScheme  # schemes whose levels are known, and what sets a block's scale

F32 = npt.NDArray[np.float32]
LAST_PLACE = 2.0**-7  # of a bfloat16


@dataclass(frozen=True, eq=False)
class HeldGrid:
    """The grid of a matrix [rows, columns] under its own scales.

    Attributes:
        scheme: that has it.
        weight: the matrix, in its stored type.
        nearest: its rounding to nearest.
        levels: float32 [k], ascending, no two equal.
        codes: uint8 [k], what is stored for each level.
        unit: a constant that values are multiplied by.
        blocks: float32 [blocks, 5]: scale, zero, base, and the ends that weights reach: those that lie there are held,
            as they set the scale. A level is worth (level - zero) * scale * unit + base, and no more than the ends.
        settled: bool [blocks], blocks that lie on the grid already, and stay as they are.
        block_size: weights to a block, in row-major order of the matrix; the last block may be short.
    """

    scheme: Carriable
    weight: torch.Tensor
    nearest: Quantized
    levels: F32
    codes: npt.NDArray[np.uint8]
    unit: np.float32
    blocks: F32
    settled: npt.NDArray[np.bool_]
    block_size: int


@dataclass(frozen=True, eq=False)
class Written:
    """A carried matrix.

    Attributes:
        weight: [rows, columns], in the type of the unlearned one.
        moved: how many weights have another code than nearest rounding of the unlearned gives them.
        blocks: how many there are.
        mended_blocks: how many of them did not come back as chosen and hold the nearest rounding of the unlearned.
        output_error: the squared difference that rounding makes to the layer's outputs, as a share of what rounding to
            nearest makes; None where nobody looked.
    """

    weight: torch.Tensor
    moved: int
    blocks: int
    mended_blocks: int
    output_error: float | None = None


def held_grid(weight: torch.Tensor, scheme: Carriable) -> HeldGrid:
    """The grid of a matrix [rows, columns] on the CPU, in its stored type."""
    import torch

    from quail_audit.engine.schemes.bitsandbytes import FourBit
    from quail_audit.engine.schemes.rtn import RoundToNearest

    nearest = scheme.quantize(weight)
    nothing = torch.zeros_like(nearest.scales)
    if isinstance(scheme, FourBit):
        # of two equal levels, fp4's zeros, the lower bucket's
        levels, first = np.unique(scheme.grid.levels, return_index=True)
        codes, unit, block_size = scheme.grid.codes[first], 1.0, scheme.grid.block_size
        zeros = bases = nothing
    else:
        # torchao's symmetric scale puts the lowest level beyond the smallest weight, where none can be written
        unused = isinstance(scheme, RoundToNearest) and not scheme.asymmetric
        levels = np.arange(scheme.lowest + unused, scheme.highest + 1, dtype=np.float32)
        codes = (np.arange(len(levels)) + unused).astype(np.uint8)
        unit, block_size = scheme.unit, scheme.block_size or weight.shape[1]
        zeros = nothing if nearest.zeros is None else nearest.zeros
        bases = nothing if nearest.bases is None else nearest.bases
    wide = weight.float()
    low, high = (side(wide, block_size) for side in (_smallest, _largest))
    if _is_even_sided(scheme):
        high = torch.maximum(-low, high)
        low = -high
    inside = (wide > of_blocks(low, weight.shape, block_size)) & (wide < of_blocks(high, weight.shape, block_size))
    off_grid = by_block((scheme.dequantize(nearest) != weight) & inside, block_size)
    return HeldGrid(
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


def _is_even_sided(scheme: Carriable) -> bool:
    """Whether a block's largest magnitude alone sets its scale, rather than its smallest and its largest weight."""
    from quail_audit.engine.schemes.gguf import Gguf
    from quail_audit.engine.schemes.rtn import RoundToNearest

    offsets = (isinstance(scheme, RoundToNearest) and scheme.asymmetric) or (
        isinstance(scheme, Gguf) and scheme.offsets
    )
    return not offsets


def _smallest(weight: torch.Tensor, block_size: int) -> torch.Tensor:
    return -_largest(-weight, block_size)


def _largest(weight: torch.Tensor, block_size: int) -> torch.Tensor:
    """Each block's largest weight: [blocks]."""
    return by_block(weight, block_size, fill=float("-inf")).amax(dim=1)


def by_block(matrix: torch.Tensor, block_size: int, *, fill: float = 0.0) -> torch.Tensor:
    """A matrix [rows, columns] as [blocks, block size], filled up where the last block is short."""
    from torch.nn.functional import pad

    flat = matrix.reshape(-1)
    return pad(flat, (0, -flat.numel() % block_size), value=fill).reshape(-1, block_size)


def written(grid: HeldGrid, values: F32, chosen: npt.NDArray[Any]) -> Written:
    """The carried matrix in its stored type, every block of which rounds to nearest as it was chosen.

    A block that does not is mended: it gets the nearest rounding of the unlearned, or, where not even that comes back,
    stays as it was.

    Args:
        grid: of the unlearned matrix.
        values: float32 [rows, columns], what was chosen.
        chosen: [rows, columns], numbers of levels; negative where a weight is its own.
    """
    import torch

    nearest = grid.nearest.codes
    levels = torch.from_numpy(chosen)
    codes = torch.where(levels < 0, nearest, torch.from_numpy(grid.codes)[levels.clamp(min=0).long()])
    weight = torch.from_numpy(values).to(grid.weight.dtype)
    # as the scheme itself dequantizes them: some multiply in the weights' own type, so that the last bit is another
    exact = grid.scheme.dequantize(replace(grid.nearest, codes=codes)).to(grid.weight.dtype)
    low, high = (of_blocks(torch.from_numpy(grid.blocks[:, end]), weight.shape, grid.block_size) for end in (3, 4))
    is_exact = (levels >= 0) & (low < exact) & (exact < high) & torch.isclose(weight, exact, rtol=LAST_PLACE, atol=0.0)
    weight = torch.where(is_exact, exact, weight)
    wrong = _wrong_blocks(grid, weight, codes)
    mended_blocks = int(wrong.sum())
    for instead in (grid.scheme.dequantize(grid.nearest), grid.weight):
        if not wrong.any():
            break
        mended = of_blocks(wrong, weight.shape, grid.block_size)
        changed = torch.where(mended, instead, weight), torch.where(mended, nearest, codes)
        still_wrong = _wrong_blocks(grid, *changed)
        if (still_wrong & ~wrong).any():  # scales that are rounded together have moved with this one
            continue
        (weight, codes), wrong = changed, still_wrong
    return Written(
        weight=weight,
        moved=int((codes != nearest).sum()),
        blocks=len(grid.blocks),
        mended_blocks=mended_blocks,
    )


def deployed_update(
    original: torch.Tensor, unlearned: torch.Tensor, carried: torch.Tensor, scheme: Scheme
) -> tuple[float | None, float | None]:
    """Survival and noise of the update as the carried matrix has it once it is rounded: Q(carried) - Q(original).

    DESIGN section 2's formulas, with the update that was asked for; None where there is none.
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


def _wrong_blocks(grid: HeldGrid, weight: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Bool [blocks]: whose codes or scale are not those asked for once the matrix is rounded to nearest."""
    found = grid.scheme.quantize(weight)
    other_codes = by_block(found.codes != codes, grid.block_size).any(dim=1)
    wrong = other_codes | (found.scales != grid.nearest.scales)
    for side, asked in ((found.zeros, grid.nearest.zeros), (found.bases, grid.nearest.bases)):
        if side is not None and asked is not None:
            wrong |= side != asked
    return wrong


def of_blocks(values: torch.Tensor, shape: torch.Size, block_size: int) -> torch.Tensor:
    """What each block has, for its weights: [blocks] -> [rows, columns]."""
    rows, columns = shape
    return values.repeat_interleave(block_size)[: rows * columns].reshape(rows, columns)
