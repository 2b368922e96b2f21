"""The sums over a pair of matrices that every statistic is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quail_audit.engine.weights import kernel_parts as block_sums

Counts = npt.NDArray[np.int64]


def no_counts() -> Counts:
    return np.zeros(block_sums.BINS, np.int64)


def no_transitions() -> Counts:
    return np.zeros((1, 1), np.int64)  # which broadcasts: it adds to the transitions of any number of levels


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over the weights of a pair of matrices under one scheme. They add up over matrices.

    Attributes:
        weights: how many there are.
        identical: how many are bitwise equal.
        same_code: how many get the same code.
        dot: <Q(w_u) - Q(w_o), w_u - w_o>.
        update_squared: |w_u - w_o|^2.
        rounded_squared: |Q(w_u) - Q(w_o)|^2.
        update_max: the largest abs(w_u - w_o).
        nonfinite_original, nonfinite_unlearned: weights that are NaN or infinite. Where there are any, the other
            sums leave out their blocks and mean nothing.
        updates: counts of abs(w_u - w_o) by bin, of the weights that changed.
        ratios: counts of abs(w_u - w_o) / bucket width by bin, of the weights that changed.
        transitions: [levels, levels], or [1, 1] where there is nothing to count or there are too many levels: how
            many weights went from the i-th bucket to the j-th, of those that are not bitwise equal or, as a scale
            moved, got another code all the same. Off the diagonal they add up to weights - same_code.
    """

    weights: int = 0
    identical: int = 0
    same_code: int = 0
    dot: float = 0.0
    update_squared: float = 0.0
    rounded_squared: float = 0.0
    update_max: float = 0.0
    nonfinite_original: int = 0
    nonfinite_unlearned: int = 0
    updates: Counts = field(default_factory=no_counts, repr=False)
    ratios: Counts = field(default_factory=no_counts, repr=False)
    transitions: Counts = field(default_factory=no_transitions, repr=False)

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(
            weights=self.weights + other.weights,
            identical=self.identical + other.identical,
            same_code=self.same_code + other.same_code,
            dot=self.dot + other.dot,
            update_squared=self.update_squared + other.update_squared,
            rounded_squared=self.rounded_squared + other.rounded_squared,
            update_max=max(self.update_max, other.update_max),
            nonfinite_original=self.nonfinite_original + other.nonfinite_original,
            nonfinite_unlearned=self.nonfinite_unlearned + other.nonfinite_unlearned,
            updates=self.updates + other.updates,
            ratios=self.ratios + other.ratios,
            transitions=self.transitions + other.transitions,
        )

    @property
    def finite(self) -> bool:
        """Whether every weight is a finite number, and every dequantized one: a rounded scale may overflow."""
        sums = (self.dot, self.update_squared, self.rounded_squared)
        return not (self.nonfinite_original or self.nonfinite_unlearned) and all(map(math.isfinite, sums))

    @property
    def survival(self) -> float | None:
        """s; None where nothing changed."""
        return self.dot / self.update_squared if self.update_squared > 0 else None

    @property
    def noise(self) -> float | None:
        """|Q(w_u) - Q(w_o) - s (w_u - w_o)| / |w_u - w_o|, by Pythagoras; None where nothing changed."""
        survival = self.survival
        if survival is None:
            return None
        return math.sqrt(max(0.0, self.rounded_squared / self.update_squared - survival * survival))
