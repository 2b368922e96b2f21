"""Define the sums over a pair of matrices that every statistic is made from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quail_audit.engine.weights import kernel_parts
from quail_audit.schema.policy import Limits

if TYPE_CHECKING:
    from typing import Self

    from quail_audit.schema.figures import State

Counts = npt.NDArray[np.int64]


def no_counts() -> Counts:
    """Return a count of zero for every bin."""
    return np.zeros(kernel_parts.BINS, np.int64)


def no_transitions() -> Counts:
    """Return transitions that add nothing to those of any number of levels, by broadcasting."""
    return np.zeros((1, 1), np.int64)


@dataclass(frozen=True, eq=False)
class Sums(ABC):
    """Sums over the weights of a pair of matrices, whoever rounded them. They add up over matrices.

    Attributes:
        weights: how many there are.
        identical: how many are equal.
        same_code: how many get the same code.
        update_max: the largest abs(w_u - w_o).
        nonfinite_original, nonfinite_unlearned: weights that are NaN or infinite. If there are any, the other sums
            leave out their blocks and mean nothing.
        updates: counts of abs(w_u - w_o) by bin, of the weights that changed.
    """

    weights: int = 0
    identical: int = 0
    same_code: int = 0
    update_max: float = 0.0
    nonfinite_original: int = 0
    nonfinite_unlearned: int = 0
    updates: Counts = field(default_factory=no_counts, repr=False)

    def __add__(self, other: Self) -> Self:
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return type(self)(**{**sums, "update_max": max(self.update_max, other.update_max)})

    @property
    def is_finite(self) -> bool:
        """True if every weight is finite, and every dequantized one: a rounded scale may overflow."""
        return not (self.nonfinite_original or self.nonfinite_unlearned)

    @property
    @abstractmethod
    def overlap(self) -> float | None:
        """The share of codes that stayed the same; None if there are none to compare."""

    @property
    @abstractmethod
    def survival(self) -> float | None:
        """s, the share of the update that rounding keeps; None if nothing changed or it is not known."""

    @property
    @abstractmethod
    def noise(self) -> float | None:
        """|Q(w_u) - Q(w_o) - s (w_u - w_o)| / |w_u - w_o|; None if nothing changed or it is not known."""

    @abstractmethod
    def state_under(self, limits: Limits) -> State | None:
        """Return what became of the layer's update; None if nothing tells."""


@dataclass(frozen=True, eq=False)
class PairSums(Sums):
    """Sums over a pair of matrices in full precision under one scheme. Identical weights are bitwise equal.

    Attributes:
        dot: <Q(w_u) - Q(w_o), w_u - w_o>.
        update_squared: |w_u - w_o|^2.
        rounded_squared: |Q(w_u) - Q(w_o)|^2.
        ratios: counts of abs(w_u - w_o) / bucket width by bin, of the weights that changed.
        transitions: [levels, levels], or [1, 1] if there is nothing to count or there are too many levels: how many
            weights went from the i-th bucket to the j-th, of those that are not bitwise equal or, as a scale moved, got
            another code all the same. Off the diagonal they add up to weights - same_code.
        on_grid: weights in blocks on which rounding takes nothing, as they lie on the scheme's grid (on_grid.py). The
            three sums that come first leave these blocks out.
    """

    dot: float = 0.0
    update_squared: float = 0.0
    rounded_squared: float = 0.0
    ratios: Counts = field(default_factory=no_counts, repr=False)
    transitions: Counts = field(default_factory=no_transitions, repr=False)
    on_grid: int = 0

    @property
    def is_finite(self) -> bool:
        """See Sums."""
        return super().is_finite and all(map(math.isfinite, (self.dot, self.update_squared, self.rounded_squared)))

    @property
    def overlap(self) -> float | None:
        """See Sums."""
        return self.same_code / self.weights

    @property
    def survival(self) -> float | None:
        """See Sums. All of an update that lies on the grid survives."""
        if self.update_squared > 0:
            return self.dot / self.update_squared
        return 1.0 if self.on_grid else None

    @property
    def noise(self) -> float | None:
        """See Sums; by Pythagoras."""
        survival = self.survival
        if survival is None:
            return None
        if self.update_squared == 0:
            return 0.0
        return math.sqrt(max(0.0, self.rounded_squared / self.update_squared - survival * survival))

    def state_under(self, limits: Limits) -> State | None:
        """See Sums."""
        if self.update_squared == 0:
            return "carried" if self.on_grid else "untouched"
        return limits.state_of(self.survival, self.overlap)
