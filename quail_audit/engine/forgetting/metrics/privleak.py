"""Measure PrivLeak: whether probabilities show that the forget set was trained on.

It is MUSE's M3. Each text is scored by Min-40% Prob (Shi et al., arXiv 2310.16789): the mean log-probability of its 40
% least likely tokens. The AUC is that of telling holdout texts, never trained on, from forget texts by the higher
score, x 100: as in MUSE's code it is near 0 if the forget set is memorised, 50 if the two look alike.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.bootstrap import interval
from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.nll import EXCERPT_CHARACTERS
from quail_audit.schema.figures import Score

LEAST_LIKELY_SHARE = 0.4

F64 = npt.NDArray[np.float64]


class PrivLeak(Metric[LanguageModel]):
    """AUC x 100 of Min-40% Prob, holdout against forget.

    The samples are the forget texts and, after them, the holdout texts. A text's score is its own part of the AUC, in
    per cent: for a holdout text the share of forget texts below it, for a forget text the share of holdout texts above
    it; the mean of either kind is the AUC. Measured.values is float64 [forget + holdout, 2]: Min-40% Prob, and 1 for
    holdout.
    """

    name = "privleak"
    needs = "privleak/forget.json and privleak/holdout.json"
    generates = False

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts in both sets; 0 if one is absent."""
        forget, holdout = data.texts.get("forget", ()), data.texts.get("holdout", ())
        return len(forget) + len(holdout) if forget and holdout else 0

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric. Holdout texts are scored as they are read, forget texts once all holdout texts are known."""
        forget, holdout = data.texts["forget"], data.texts["holdout"]
        of_forget = np.zeros(len(forget))
        for index, log_probabilities in model.log_probabilities(forget):
            of_forget[index] = min_k_probability(log_probabilities)
        of_holdout = np.zeros(len(holdout))
        for index, log_probabilities in model.log_probabilities(holdout):
            of_holdout[index] = min_k_probability(log_probabilities)
            placed = 100.0 * float(holdout_wins(of_forget, of_holdout[index]).mean())
            yield Sample(len(forget) + index, placed, prompt=holdout[index][:EXCERPT_CHARACTERS])
        for index, text in enumerate(forget):
            placed = 100.0 * float(holdout_wins(of_forget[index], of_holdout).mean())
            yield Sample(index, placed, prompt=text[:EXCERPT_CHARACTERS])
        return Measured(auc_score(of_forget, of_holdout, seed), membership_values(of_forget, of_holdout))


def min_k_probability(log_probabilities: npt.NDArray[np.floating[Any]]) -> float:
    """Return Min-40% Prob of one text from its tokens' log-probabilities [tokens].

    The number of tokens is rounded down, as in MUSE's code, but is at least one; a text without any scores 0.
    """
    if not log_probabilities.size:
        return 0.0
    count = max(1, int(log_probabilities.size * LEAST_LIKELY_SHARE))
    least_likely = np.sort(log_probabilities)[:count]
    return float(least_likely.mean(dtype=np.float64))


def membership_values(of_forget: F64, of_holdout: F64) -> F64:
    """Return Measured.values of the two sets' scores."""
    is_holdout = np.repeat([0.0, 1.0], [len(of_forget), len(of_holdout)])
    return np.stack((np.concatenate((of_forget, of_holdout)), is_holdout), axis=1)


def auc(of_forget: F64, of_holdout: F64, *, axis: int = -1) -> F64:
    """Return AUC x 100 along the last axis of scores [..., forget] and [..., holdout]; ties count half.

    It goes by ranks (Mann and Whitney, 1947), so that it runs over many resamples at once.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate((of_forget, of_holdout), axis=axis), axis=axis)
    holdout_ranks = ranks[..., of_forget.shape[axis] :].sum(axis=axis)
    pairs = of_forget.shape[axis] * of_holdout.shape[axis]
    least = of_holdout.shape[axis] * (of_holdout.shape[axis] + 1) / 2
    found: F64 = 100.0 * (holdout_ranks - least) / pairs
    return found


def relative_auc(auc_percent: Score, retrain_auc_percent: float) -> Score:
    """Return MUSE's M3, (AUC - AUC_retrain) / AUC_retrain, in percent: 0 is best, far below leaks, far above overdoes.

    The reference is taken as known: the interval is the AUC's alone.
    """
    mean, low, high = (
        100.0 * (value - retrain_auc_percent) / retrain_auc_percent
        for value in (auc_percent.mean, auc_percent.low, auc_percent.high)
    )
    return Score(mean=mean, low=low, high=high, samples=auc_percent.samples)


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return the one metric of this family."""
    return (PrivLeak(),)


def holdout_wins(of_forget: F64 | float, of_holdout: F64 | float) -> F64:
    """Return 1 if the holdout text scores higher, a half at a tie."""
    found: F64 = np.greater(of_holdout, of_forget) + 0.5 * np.equal(of_holdout, of_forget)
    return found


def auc_score(of_forget: F64, of_holdout: F64, seed: int) -> Score:
    """Return the AUC with its interval, from the scores of both sets, the higher the better known."""
    from sklearn.metrics import roc_auc_score  # 1 s to import

    values = membership_values(of_forget, of_holdout)
    point = 100.0 * float(roc_auc_score(values[:, 1], values[:, 0]))
    low, high = interval((of_forget, of_holdout), auc, seed=seed)
    return Score(mean=point, low=low, high=high, samples=len(values))
