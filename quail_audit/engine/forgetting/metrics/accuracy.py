"""Measure accuracy: the share of texts that a classifier gives their label, in percent.

In the forget set the label is the one that was learned and is to be lost, so high means known, as with every metric of
forgetting.
"""

from collections.abc import Generator

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import ForgettingData, LabelledSet
from quail_audit.engine.forgetting.metrics.interface import Classifier, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.predictions import classify, needed_files

SETS: tuple[LabelledSet, ...] = ("forget", "retain", "test")


class Accuracy(Metric[Classifier]):
    """A sample's score is 100 if its label is right, 0 if it is not."""

    task = "classification"
    generates = False

    def __init__(self, of: LabelledSet) -> None:
        self.of: LabelledSet = of
        self.name = f"accuracy_{of}"
        self.needs = needed_files(of)

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts."""
        return len(data.labelled.get(self.of, ()))

    def measure(self, data: ForgettingData, model: Classifier, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric."""
        scores = np.zeros(self.samples(data))
        for found in classify(data, self.of, model):
            scores[found.index] = 100.0 * found.is_right
            yield found.sample(scores[found.index])
        return Measured(mean_score(scores, seed=seed), scores)


def metrics() -> tuple[Metric[Classifier], ...]:
    """Return the accuracy of the forget, retain and test sets."""
    return tuple(Accuracy(of) for of in SETS)
