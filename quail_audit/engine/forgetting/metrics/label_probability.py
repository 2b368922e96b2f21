"""Measure the probability that a classifier gives the labels of the forget set, x 100.

It is finer than accuracy: it falls and rises before a label flips.
"""

from collections.abc import Generator

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.metrics.interface import Classifier, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.predictions import classify, needed_files


class LabelProbability(Metric[Classifier]):
    """Mean probability of the true label on the forget set, in per cent."""

    task = "classification"
    name = "label_probability_forget"
    needs = needed_files("forget")
    generates = False

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts."""
        return len(data.labelled.get("forget", ()))

    def measure(self, data: ForgettingData, model: Classifier, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric."""
        scores = np.zeros(self.samples(data))
        for found in classify(data, "forget", model):
            scores[found.index] = 100.0 * np.exp(found.truth_nats)
            yield found.sample(scores[found.index])
        return Measured(mean_score(scores, seed=seed), scores)


def metrics() -> tuple[Metric[Classifier], ...]:
    """Return the one metric of this family."""
    return (LabelProbability(),)
