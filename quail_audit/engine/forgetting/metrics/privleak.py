"""Measure PrivLeak: whether probabilities show that the forget set was trained on.

It is MUSE's M3. Each text is scored by Min-40% Prob (Shi et al., arXiv 2310.16789): the mean log-probability of its 40
% least likely tokens. The AUC is that of telling holdout texts, never trained on, from forget texts by the higher
score, x 100: as in MUSE's code it is near 0 if the forget set is memorised, 50 if the two look alike.
"""

from __future__ import annotations

from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Metric, TokenScores
from quail_audit.engine.forgetting.metrics.text_membership import TextMembership, mean_of_least
from quail_audit.schema.figures import Score


def min_k_probability(found: TokenScores) -> float:
    """Return Min-40% Prob of one text, in nats."""
    return mean_of_least(found.log_probabilities)


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
    return (TextMembership("privleak", min_k_probability),)
