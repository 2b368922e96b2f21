"""Measure macro-F1, and how often two arms give the same label.

Macro-F1 is the mean F1 over a set's classes, x 100. The classes are those that the set has texts of: a class that it
has none of could only be predicted wrongly, and would halve the score of a forget set of one class. On sets that hold
every class this is scikit-learn's macro average.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.bootstrap import CONFIDENCE, RESAMPLES, mean_score
from quail_audit.engine.forgetting.data.types import ForgettingData, LabelledSet
from quail_audit.engine.forgetting.metrics.accuracy import SETS
from quail_audit.engine.forgetting.metrics.interface import Classifier, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.predictions import classify, needed_files
from quail_audit.schema.figures import Score

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class MacroF1(Metric[Classifier]):
    """A sample's score is 100 if its label is right, 0 if it is not. Measured.values are the classes given."""

    task = "classification"
    generates = False

    def __init__(self, of: LabelledSet) -> None:
        self.of: LabelledSet = of
        self.name = f"macro_f1_{of}"
        self.needs = needed_files(of)

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts."""
        return len(data.labelled.get(self.of, ()))

    def measure(self, data: ForgettingData, model: Classifier, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric."""
        true, given = (np.zeros(self.samples(data), dtype=np.int64) for _ in range(2))
        for found in classify(data, self.of, model):
            true[found.index], given[found.index] = found.truth, found.label
            yield found.sample(100.0 * found.is_right)
        return Measured(_score(true, given, len(data.labels), seed), given.astype(np.float64))


def macro_f1(counts: npt.NDArray[Any]) -> F64:
    """Return macro-F1 x 100 from confusion counts [..., true class, given class], which are not all zero."""
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    true, given = counts.sum(axis=-1), counts.sum(axis=-2)
    present = true > 0
    of_each = 2.0 * right / np.maximum(true + given, 1)
    found: F64 = 100.0 * (of_each * present).sum(axis=-1) / present.sum(axis=-1)
    return found


def agreement(given: F64, original: F64, *, seed: int) -> Score:
    """Return the share of texts, in percent, that an arm gives the same class as the original does."""
    return mean_score(100.0 * (given == original), seed=seed)


def metrics() -> tuple[Metric[Classifier], ...]:
    """Return macro-F1 of the forget, retain and test sets."""
    return tuple(MacroF1(of) for of in SETS)


def _score(true: I64, given: I64, classes: int, seed: int) -> Score:
    """Drawing texts with replacement is drawing the cells of the confusion counts from a multinomial distribution."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (true, given), 1)
    mean = float(macro_f1(counts))
    cells = np.flatnonzero(counts)
    total = len(true)
    drawn = np.random.default_rng(seed).multinomial(total, counts.flat[cells] / total, size=RESAMPLES)
    used = np.unique(
        np.concatenate((cells // classes, cells % classes))
    )  # without classes that no text has or was given
    place = np.searchsorted(used, cells // classes), np.searchsorted(used, cells % classes)
    found = np.empty(RESAMPLES)
    step = max(1, 10**6 // len(used) ** 2)
    for start in range(0, RESAMPLES, step):
        part = drawn[start : start + step]
        resampled = np.zeros((len(part), len(used), len(used)), dtype=np.int64)
        resampled[:, *place] = part
        found[start : start + step] = macro_f1(resampled)
    outside = 100.0 * (1.0 - CONFIDENCE) / 2
    low, high = np.percentile(found, [outside, 100.0 - outside])
    return Score(mean=mean, low=float(low), high=float(high), samples=total)
