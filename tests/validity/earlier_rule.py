"""Judge a pair by the rule that Quail had before: recovery of the mean answer, above the higher floor, by bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
LIMIT, INFORMATIVE, RESAMPLES = 10.0, 5.0, 2000


@dataclass(frozen=True)
class EarlierVerdict:
    """A verdict by the earlier rule.

    Attributes:
        outcome: pass, fail or inconclusive.
        percent: recovery; None if it was not computed.
        low, high: its 95 % percentile bootstrap interval.
    """

    outcome: str
    percent: float | None = None
    low: float | None = None
    high: float | None = None


def earlier_verdict(original: F64, unlearned: F64, deployed: F64, reference: F64, *, seed: int = 0) -> EarlierVerdict:
    """Return the earlier rule's verdict.

    Args:
        original: ROUGE-L of the answers of the original in full precision, in points, [items].
        unlearned: the same of the unlearned checkpoint in full precision.
        deployed: the same of the unlearned checkpoint, rounded.
        reference: the same of the reference in full precision.
        seed: of the bootstrap.
    """
    if original.mean() - reference.mean() < INFORMATIVE:
        return EarlierVerdict("inconclusive")
    if original.mean() - unlearned.mean() < INFORMATIVE:
        return EarlierVerdict("fail")
    arms = np.stack([original, unlearned, deployed, reference])
    percent = float(_recovery(arms.mean(axis=1)))
    draws = np.random.default_rng(seed).integers(len(original), size=(RESAMPLES, len(original)))
    low, high = np.percentile(_recovery(arms[:, draws].mean(axis=2)), [2.5, 97.5])
    outcome = "fail" if low > LIMIT else "pass" if high <= LIMIT else "inconclusive"
    return EarlierVerdict(outcome, percent, float(low), float(high))


def _recovery(means: F64) -> F64:
    original, unlearned, deployed, reference = means
    floor = np.maximum(unlearned, reference)
    found: F64 = 100 * np.maximum(deployed - floor, 0) / np.maximum(original - floor, 1.0)
    return found
