"""Sum over a pair of matrices that are stored quantized: their codes and values.

There is no unrounded update to compare the rounded one with, so survival, noise and update / bucket width are not
defined, and a layer's state rests on its codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quail_audit.engine.schemes.rounded import RoundedMatrix
from quail_audit.engine.weights.sums import Sums
from quail_audit.engine.weights.tensor_sums import count_by_bin
from quail_audit.schema.policy import Limits

if TYPE_CHECKING:
    import torch

    from quail_audit.schema.figures import State


@dataclass(frozen=True, eq=False)
class StoredSums(Sums):
    """Sums over a pair of matrices as they are stored. Identical weights have the same value.

    Attributes:
        compared: how many weights have codes of one format on both sides.
        full: how many are in full precision on both sides, so that what is deployed is the whole update.
    """

    compared: int = 0
    full: int = 0

    @property
    def is_finite(self) -> bool:
        """See Sums."""
        return super().is_finite and math.isfinite(self.update_max)

    @property
    def overlap(self) -> float | None:
        """See Sums."""
        return self.same_code / self.compared if self.compared else None

    @property
    def survival(self) -> float | None:
        """See Sums. Known if nothing was rounded: all of it."""
        return 1.0 if self._is_carried_whole else None

    @property
    def noise(self) -> float | None:
        """See Sums. Known if nothing was rounded: none."""
        return 0.0 if self._is_carried_whole else None

    def state_under(self, limits: Limits) -> State | None:
        """See Sums. An update that rounding erased before the checkpoint was stored cannot be told from none at all."""
        if self.identical == self.weights and self.same_code == self.compared:
            return "untouched"
        if self._is_carried_whole:
            return "carried"
        return limits.state_of(None, self.overlap) if self.compared else None

    @property
    def _is_carried_whole(self) -> bool:
        return self.full == self.weights > self.identical


def stored_sums(
    original: RoundedMatrix | torch.Tensor, unlearned: RoundedMatrix | torch.Tensor, *, comparable: bool
) -> StoredSums:
    """Sum what the statistics of a pair of stored matrices need.

    Args:
        original, unlearned: [rows, columns] each; a tensor if that side is in full precision.
        comparable: whether equal codes of the two mean the same bucket: both are stored in one format.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = (side if isinstance(side, RoundedMatrix) else None for side in (original, unlearned))
    values = [_values(side) for side in (original, unlearned)]
    if values[0].shape != values[1].shape:
        raise ValueError(f"shapes differ: {tuple(values[0].shape)} and {tuple(values[1].shape)}")
    weights = values[0].numel()
    nonfinite = [int((~side.isfinite()).sum()) for side in values]
    if any(nonfinite):
        return StoredSums(weights=weights, nonfinite_original=nonfinite[0], nonfinite_unlearned=nonfinite[1])
    update = (values[1].double() - values[0].double()).abs_().float().reshape(-1)
    update = update[update > 0]
    coded = comparable and first is not None and second is not None
    return StoredSums(
        weights=weights,
        compared=weights if coded else 0,
        same_code=int((first.codes == second.codes).sum()) if coded and first and second else 0,
        identical=int((values[0] == values[1]).sum()),
        full=weights if first is None and second is None else 0,
        update_max=float(update.max()) if update.numel() else 0.0,
        updates=count_by_bin(update),
    )


def _values(side: RoundedMatrix | torch.Tensor) -> torch.Tensor:
    return (side.values if isinstance(side, RoundedMatrix) else side).float()
