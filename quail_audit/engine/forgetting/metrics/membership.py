"""Measure whether a classifier's answers show that it was trained on the forget set.

This is membership inference. It makes two attacks on a text and its label: by the loss (Yeom et al., arXiv 1709.01604),
and by the confidence, the probability of whatever label the model gives (Salem et al., arXiv 1806.01246). As in
auc.py the AUC, x 100, is that of telling holdout texts, never trained on, from forget texts by the higher score:
near 0 if the forget set is known, 50 if the two look alike. PrivLeak is taken from it in the same way.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Literal

import numpy as np

from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.metrics.auc import auc_score, holdout_wins, membership_values
from quail_audit.engine.forgetting.metrics.interface import Classifier, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.predictions import Prediction, classify, needed_files

Attack = Literal["loss", "confidence"]
# The higher, the better known. The loss by its negative.
SCORES: dict[Attack, Callable[[Prediction], float]] = {
    "loss": lambda found: found.truth_nats,
    "confidence": lambda found: float(found.log_probabilities.max()),
}


class MembershipInference(Metric[Classifier]):
    """AUC x 100 of one attack, holdout against forget.

    Samples, their scores and Measured.values are those of PrivLeak, with the attack's score.
    """

    task = "classification"
    needs = f"{needed_files('forget')}, and {needed_files('holdout')}"
    generates = False

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.name = f"mia_{attack}"

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts in both sets; 0 if one is absent."""
        forget, holdout = data.labelled.get("forget", ()), data.labelled.get("holdout", ())
        return len(forget) + len(holdout) if forget and holdout else 0

    def measure(self, data: ForgettingData, model: Classifier, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric. Holdout texts are scored as they are read, forget texts once all holdout texts are known."""
        score = SCORES[self.attack]
        members = sorted(classify(data, "forget", model), key=lambda found: found.index)
        of_forget = np.array([score(found) for found in members])
        of_holdout = np.zeros(len(data.labelled["holdout"]))
        for found in classify(data, "holdout", model):
            of_holdout[found.index] = score(found)
            sample = found.sample(100.0 * float(holdout_wins(of_forget, of_holdout[found.index]).mean()))
            yield replace(sample, index=len(of_forget) + found.index)
        for found in members:
            yield found.sample(100.0 * float(holdout_wins(of_forget[found.index], of_holdout).mean()))
        return Measured(auc_score(of_forget, of_holdout, seed), membership_values(of_forget, of_holdout))


def metrics() -> tuple[Metric[Classifier], ...]:
    """Both attacks."""
    return tuple(MembershipInference(attack) for attack in SCORES)
