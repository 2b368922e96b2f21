"""What can be said of a layer that is stored quantized: codes as they are stored, and the values that they stand for.

There is no unrounded update to hold the rounded one against, so survival, noise and update / bucket width are not
defined, and a layer's state rests on its codes. Not here: the statistics of a pair in full precision (overlap.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quail_audit.engine.schemes.rounded import RoundedMatrix
from quail_audit.engine.weights import kernel_parts as block_sums
from quail_audit.engine.weights.statistics import median_of_counts
from quail_audit.engine.weights.tensor_sums import count_by_bin
from quail_audit.schema.figures import LayerStatistics, SchemeSummary, State
from quail_audit.schema.policy import Limits

if TYPE_CHECKING:
    import torch


def _no_counts() -> npt.NDArray[np.int64]:
    return np.zeros(block_sums.BINS, np.int64)


@dataclass(frozen=True, eq=False)
class StoredSums:
    """Sums over the weights of a pair of matrices as they are stored. They add up over matrices.

    Attributes:
        weights: how many there are.
        compared: how many have codes of one format on both sides.
        same_code: how many of these have the same code.
        identical: how many have the same value.
        full: how many are in full precision on both sides, so that what is deployed is the whole update.
        update_max: the largest difference of values.
        nonfinite_original, nonfinite_unlearned: values that are NaN or infinite.
        updates: counts of the differences by bin, of the values that differ.
    """

    weights: int = 0
    compared: int = 0
    same_code: int = 0
    identical: int = 0
    full: int = 0
    update_max: float = 0.0
    nonfinite_original: int = 0
    nonfinite_unlearned: int = 0
    updates: npt.NDArray[np.int64] = field(default_factory=_no_counts, repr=False)

    def __add__(self, other: StoredSums) -> StoredSums:
        return StoredSums(
            weights=self.weights + other.weights,
            compared=self.compared + other.compared,
            same_code=self.same_code + other.same_code,
            identical=self.identical + other.identical,
            full=self.full + other.full,
            update_max=max(self.update_max, other.update_max),
            nonfinite_original=self.nonfinite_original + other.nonfinite_original,
            nonfinite_unlearned=self.nonfinite_unlearned + other.nonfinite_unlearned,
            updates=self.updates + other.updates,
        )

    @property
    def finite(self) -> bool:
        return not (self.nonfinite_original or self.nonfinite_unlearned) and math.isfinite(self.update_max)


def stored_sums(
    original: RoundedMatrix | torch.Tensor, unlearned: RoundedMatrix | torch.Tensor, *, comparable: bool
) -> StoredSums:
    """Sum over a pair of matrices what their statistics need.

    Args:
        original, unlearned: [rows, columns] each; a tensor where that side is in full precision.
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


def stored_layer_statistics(
    sums: StoredSums, *, name: str, block: int | None, role: str, limits: Limits
) -> LayerStatistics:
    """What a layer's sums say."""
    state = _state(sums, limits)
    changed = sums.finite and sums.identical < sums.weights
    known: dict[str, Any] = {
        "identical": sums.identical / sums.weights,
        "overlap": sums.same_code / sums.compared if sums.compared else None,
        "survival": 1.0 if sums.full and changed else None,  # nothing is rounded
        "noise": 0.0 if sums.full and changed else None,
        "update_median": median_of_counts(sums.updates, zeros=sums.identical),
        "update_median_changed": median_of_counts(sums.updates),
        "update_max": sums.update_max,
    }
    return LayerStatistics(
        name=name,
        block=block,
        role=role,
        weights=sums.weights,
        update_to_bucket=None,
        state=state,
        at_risk=state == "drowned",
        nonfinite_original=sums.nonfinite_original,
        nonfinite_unlearned=sums.nonfinite_unlearned,
        **(known if sums.finite else dict.fromkeys(known)),
    )


def _state(sums: StoredSums, limits: Limits) -> State | None:
    """Untouched where every code and value is equal; else by the codes, and where there are none to compare, unknown.

    An update that rounding erased before the checkpoint was stored leaves nothing to tell it from none at all.
    """
    if not sums.finite:
        return None
    if sums.identical == sums.weights and sums.same_code == sums.compared:
        return "untouched"
    if sums.full:
        return "carried"
    if not sums.compared:
        return None
    return limits.state_of(None, sums.same_code / sums.compared)


def summarize_stored(total: StoredSums, layers: Sequence[LayerStatistics]) -> SchemeSummary:
    """All layers taken together.

    Args:
        total: the sum of the layers' sums.
        layers: their statistics.
    """
    states = [layer.state for layer in layers]
    finite = total.finite and total.weights > 0
    return SchemeSummary(
        weights=total.weights,
        identical=total.identical / total.weights if finite else None,
        overlap=total.same_code / total.compared if finite and total.compared else None,
        survival=None,
        noise=None,
        layers_at_risk=sum(layer.at_risk for layer in layers),
        layers_untouched=states.count("untouched"),
        layers_carried=states.count("carried"),
        layers_drowned=states.count("drowned"),
        layers_erased=0,
    )
