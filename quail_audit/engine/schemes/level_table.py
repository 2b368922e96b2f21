"""Describe the buckets of a scheme that scales a table of levels by a block's absmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class LevelTable:
    """A table of levels.

    A weight w of a block with scale a gets the i-th bucket when bounds[i - 1] < w / a <= bounds[i]; the bucket's
    weights all become levels[i] * a, and codes[i] is stored.

    Attributes:
        block_size: weights in a block, in row-major order of the matrix; the last block may be short.
        levels: float32 [k], ascending; from -1 to 1.
        bounds: float32 [k - 1], ascending: what separates the buckets.
        codes: uint8 [k]: the integer that the scheme stores for each level.
    """

    block_size: int
    levels: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The bounds with the outer ends: plus and minus the scale. [k + 1]"""
        return np.concatenate(([-1.0], self.bounds.astype(np.float64), [1.0]))

    @property
    def widths(self) -> npt.NDArray[np.float64]:
        """The width of each level's bucket for a scale of 1: [k]."""
        return np.diff(self.edges)
