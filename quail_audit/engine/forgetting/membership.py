"""Compute how far membership in the forget set can be told again when the model is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.bootstrap import interval
from quail_audit.engine.forgetting.metrics.auc import auc
from quail_audit.schema.figures import Estimate, Knowledge
from quail_audit.verdict.roles import Arms

F64 = npt.NDArray[np.float64]

# A resample may draw texts that the original hardly tells from others. A shorter way, in points of the AUC, counts as
# this much, so that the resample widens the interval instead of dividing by almost zero.
_LEAST_WAY_POINTS = 1.0


def membership_knowledge(values: Mapping[str, F64], arms: Arms, informative_points: float, *, seed: int) -> Knowledge:
    """Return the share of the way from the floor's AUC back to the original's, in percent, reported only.

    It is negative if rounding leads further away, and has no figure if an arm is absent, or if the way is shorter than
    informative_points. The interval is the bootstrap's, over the texts: an AUC is no mean that could be bet on.

    Args:
        values: arm -> Measured.values of PrivLeak or of membership inference.
        arms: the arms of the scheme.
        informative_points: the policy's, of the AUC x 100.
        seed: random seed for the bootstrap.
    """
    if arms.floor is None or arms.deployed is None:
        return Knowledge(outcome="reported only")
    measured = [values[arm] for arm in (arms.original, arms.floor, arms.deployed)]
    is_holdout = measured[0][:, 1] == 1.0
    forget = [each[~is_holdout, 0] for each in measured]
    holdout = [each[is_holdout, 0] for each in measured]

    def share(forget_drawn: npt.NDArray[Any], holdout_drawn: npt.NDArray[Any], axis: int = -1) -> F64:
        aucs = [auc(f[forget_drawn], h[holdout_drawn], axis=axis) for f, h in zip(forget, holdout, strict=True)]
        way = aucs[0] - aucs[1]
        too_short = np.abs(way) < _LEAST_WAY_POINTS
        way = np.where(too_short, np.copysign(_LEAST_WAY_POINTS, way), way)
        found: F64 = 100.0 * (aucs[2] - aucs[1]) / way
        return found

    everything = (np.arange(len(forget[0])), np.arange(len(holdout[0])))
    floor = float(auc(forget[1], holdout[1]))
    if abs(float(auc(forget[0], holdout[0])) - floor) < informative_points:
        return Knowledge(outcome="reported only", floor=floor, floor_arm=arms.floor)
    low, high = interval(everything, share, seed=seed)  # all arms by the same draws
    known = Estimate(percent=float(share(*everything)), low=low, high=high, items=len(is_holdout))
    return Knowledge(outcome="reported only", known=known, floor=floor, floor_arm=arms.floor)
