"""Compute means with 95 % percentile bootstrap intervals (Efron, 1979), by scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quail_audit.schema.figures import Score

CONFIDENCE = 0.95
RESAMPLES = 9_999
BATCH_VALUES = 1_000_000  # resampled at once, per array: what bounds the memory

F64 = npt.NDArray[np.float64]


def interval(
    samples: Sequence[npt.NDArray[Any]], statistic: Callable[..., F64], *, seed: int, paired: bool = False
) -> tuple[float, float]:
    """Return the middle 95 % of a statistic over resamples.

    A single sample cannot be resampled: the interval is then the statistic itself.

    Args:
        samples: arrays [n], each resampled on its own or, if paired, all of one length and by the same draws.
        statistic: called with as many arrays [..., n] and axis=-1; returns [...].
        seed: random seed; the same seed gives the same interval.
        paired: see samples.
    """
    from scipy.stats import bootstrap  # 0.5 s to import

    if all(values.shape[0] < 2 for values in samples):
        only = float(statistic(*samples, axis=-1))
        return only, only
    # scipy demands two of each; doubling a single one leaves every resample of it as it is
    samples = [np.repeat(values, 2) if values.shape[0] == 1 else values for values in samples]
    longest = max(values.shape[0] for values in samples)
    found = bootstrap(
        tuple(samples),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // longest),
        vectorized=True,
        paired=paired,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def mean_score(values: F64, *, seed: int) -> Score:
    """Return the mean of values [n] with its 95 % interval."""
    low, high = interval([values], np.mean, seed=seed)
    return Score(mean=float(values.mean()), low=low, high=high, samples=values.shape[0])
