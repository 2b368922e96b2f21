"""Classify the labelled texts of a set, for all metrics of classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.data.types import ForgettingData, Labelled, LabelledSet
from quail_audit.engine.forgetting.metrics.interface import Classifier, Sample

MOST_SHOWN = 5  # of the probabilities, besides the true label's


@dataclass(frozen=True, eq=False)
class Prediction:
    """One text as a classifier sees it.

    Attributes:
        index: its place in the set.
        row: the text and its true label.
        truth: the true label's class.
        log_probabilities: float32 [classes], natural.
    """

    index: int
    row: Labelled
    truth: int
    log_probabilities: npt.NDArray[np.float32]
    labels: tuple[str, ...]

    @property
    def label(self) -> int:
        """The class that it gives; the first of equals, as a deployed classifier's argmax."""
        return int(self.log_probabilities.argmax())

    @property
    def is_right(self) -> bool:
        return self.label == self.truth

    @property
    def truth_nats(self) -> float:
        """Log-probability of the true label."""
        return float(self.log_probabilities[self.truth])

    def sample(self, score: float) -> Sample:
        """Return a sample with this score."""
        shares = np.exp(self.log_probabilities.astype(np.float64))
        likeliest = [int(place) for place in np.argsort(-shares, kind="stable")]
        shown = likeliest[:MOST_SHOWN] + [place for place in likeliest[MOST_SHOWN:] if place == self.truth]
        return Sample(
            index=self.index,
            score=score,
            prompt=self.row.text,
            truth=self.row.label,
            answer=self.labels[self.label],
            probabilities={self.labels[place]: float(shares[place]) for place in shown},
        )


def classify(data: ForgettingData, name: LabelledSet, model: Classifier) -> Iterator[Prediction]:
    """Yield the prediction for every text of a set. The data has been fitted to the model (measurable.fit_data)."""
    rows = data.labelled[name]
    classes = {label: place for place, label in enumerate(data.labels)}
    for index, found in model.label_log_probabilities([row.text for row in rows]):
        yield Prediction(index, rows[index], classes[rows[index].label], found, data.labels)


def needed_files(name: LabelledSet) -> str:
    """Name the files of a set, for people."""
    return f"{name}.csv or {name}.jsonl with {{text, label}}"
