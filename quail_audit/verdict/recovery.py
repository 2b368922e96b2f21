"""Compute recovery: how much of what was forgotten comes back, in percent."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["original/full", "unlearned/full", "unlearned/quantized", "retrain/full"]


DECIDING_METRICS = ("verbmem_forget", "knowmem_forget", "accuracy_forget", "label_probability_forget")


REPORTED_METRICS = ("privleak", "mia_loss", "mia_confidence")


# A resample may draw samples that the original hardly knew. A smaller difference, in points of the metric, counts as
# this much, so that the resample widens the interval instead of dividing by almost zero.
LEAST_DIFFERENCE_POINTS = 1.0


F64 = npt.NDArray[np.float64]


def recovery_percent(original: F64, rounded: F64, *floors: F64, axis: int = -1) -> F64:
    """Return the recovery of the same samples' scores [..., samples] on each arm, for every resample.

    The floors are the arms that show what a model may know: unlearned/full, retrain/full, or both.
    """
    floor = functools.reduce(np.maximum, [scores.mean(axis=axis) for scores in floors])
    to_forget = np.maximum(original.mean(axis=axis) - floor, LEAST_DIFFERENCE_POINTS)
    found: F64 = 100.0 * np.maximum(rounded.mean(axis=axis) - floor, 0.0) / to_forget
    return found
