"""Compute how much of what was forgotten comes back when the model is rounded.

docs/metrics.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.bootstrap import interval
from quail_audit.engine.forgetting.metrics.auc import auc
from quail_audit.schema.figures import Recovery
from quail_audit.schema.policy import DEFAULT_LIMITS, Limits
from quail_audit.verdict.recovery import (
    DECIDING_METRICS,
    F64,
    LEAST_DIFFERENCE_POINTS,
    REPORTED_METRICS,
    Role,
    recovery_percent,
)


def recovery(
    metric: str,
    scores_by_role: Mapping[Role, F64],
    limits: Limits = DEFAULT_LIMITS,
    *,
    seed: int,
) -> Recovery:
    """Return the recovery of one metric at one scheme.

    For VerbMem, KnowMem, and a classifier's accuracy and label probability, of the forget set, with M the mean score
    and F, the floor, what a model may know without having learned the forget set: max(M[retrain/full],
    M[unlearned/full]) with a retrained reference, else M[unlearned/full]. In this order:

    1. "uninformative" if the original is less than informative_points above the reference (without one, above 0): it
       never knew more than a model that never saw the data;
    2. "not forgotten" if it is less than that above the unlearned one in full precision, or, if that one is only
       given quantized, as it is stored;
    3. "no rounded arm" or "no floor" if an arm is absent without which nothing can be told;
    4. else max(0, M[unlearned/quantized] - F) / (M[original/full] - F) in per cent, its interval paired over samples, F
       taken anew in each resample: "recovered" if the whole interval is above max_recovery_percent,
       "held" if none of it is, else "undecided". A single sample leaves it undecided: it has no interval.

    For PrivLeak and membership inference the share of the way from AUC[unlearned/full] back to AUC[original/full],
    "reported only"; negative if rounding leads further away, null if the two differ by less than
    informative_points.

    Args:
        metric: one of DECIDING_METRICS or of REPORTED_METRICS.
        scores_by_role: Measured.values of each arm. "original/full" is needed, and one of the unlearned ones. Where a
            checkpoint is only given quantized, its stored arm plays "original/full" or "retrain/full", and
            "unlearned/full" is absent.
        limits: the policy's for this metric at this scheme.
        seed: random seed for the bootstrap.
    """
    if metric in REPORTED_METRICS:
        return _auc_recovery(scores_by_role, limits.informative_points, seed)
    if metric not in DECIDING_METRICS:
        raise ValueError(f"recovery is not defined for {metric}")
    means = {role: float(values.mean()) for role, values in scores_by_role.items()}
    original, reference = means["original/full"], means.get("retrain/full")
    unlearned = means["unlearned/full"] if "unlearned/full" in means else means["unlearned/quantized"]
    floors: list[Role] = [role for role in ("unlearned/full", "retrain/full") if role in means]
    floor_arm = max(floors, key=lambda role: means[role], default=None)  # of two alike, the first
    floor = None if floor_arm is None else means[floor_arm]
    if original - (reference if reference is not None else 0.0) < limits.informative_points:
        return Recovery(outcome="uninformative", floor=floor, floor_arm=floor_arm)
    if original - unlearned < limits.informative_points:
        return Recovery(outcome="not forgotten", floor=floor, floor_arm=floor_arm)
    if "unlearned/quantized" not in means:
        return Recovery(outcome="no rounded arm", floor=floor, floor_arm=floor_arm)
    if not floors:
        return Recovery(outcome="no floor")

    roles: list[Role] = ["original/full", "unlearned/quantized", *floors]
    values = [scores_by_role[role] for role in roles]
    percent = float(recovery_percent(*values))
    if len(values[0]) < 2:
        low, high = min(0.0, percent), max(100.0, percent)
    else:
        low, high = interval(values, recovery_percent, seed=seed, paired=True)
    outcome = limits.outcome_of(low, high, len(values[0]))
    return Recovery(outcome=outcome, percent=percent, low=low, high=high, floor=floor, floor_arm=floor_arm)


def _auc_recovery(values_by_role: Mapping[Role, F64], informative_points: float, seed: int) -> Recovery:
    roles: list[Role] = ["original/full", "unlearned/full", "unlearned/quantized"]
    if not values_by_role.keys() >= set(roles):
        return Recovery(outcome="reported only")
    is_holdout = values_by_role[roles[0]][:, 1] == 1.0
    forget = [values_by_role[role][~is_holdout, 0] for role in roles]
    holdout = [values_by_role[role][is_holdout, 0] for role in roles]

    def share(forget_drawn: npt.NDArray[Any], holdout_drawn: npt.NDArray[Any], axis: int = -1) -> F64:
        aucs = [auc(f[forget_drawn], h[holdout_drawn], axis=axis) for f, h in zip(forget, holdout, strict=True)]
        way = aucs[0] - aucs[1]
        too_short = np.abs(way) < LEAST_DIFFERENCE_POINTS
        way = np.where(too_short, np.copysign(LEAST_DIFFERENCE_POINTS, way), way)
        found: F64 = 100.0 * (aucs[2] - aucs[1]) / way
        return found

    everything = (np.arange(len(forget[0])), np.arange(len(holdout[0])))
    way_points = float(auc(forget[0], holdout[0]) - auc(forget[1], holdout[1]))
    if abs(way_points) < informative_points:
        return Recovery(outcome="reported only")
    low, high = interval(everything, share, seed=seed)  # all arms by the same draws
    return Recovery(outcome="reported only", percent=float(share(*everything)), low=low, high=high)
