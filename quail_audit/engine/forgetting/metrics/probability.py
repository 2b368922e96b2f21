"""Measure the probability of the truth: exp of the mean log-probability of its tokens, x 100.

It is the probability of a truth, normalised by its length (TOFU, arXiv 2401.06121; open-unlearning's Prob).
"""

from __future__ import annotations

import numpy as np

from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Metric, TokenScores
from quail_audit.engine.forgetting.metrics.truths import truth_metrics


def probability(found: TokenScores) -> float:
    """Return the geometric mean of the tokens' probabilities, x 100."""
    return 100.0 * float(np.exp(found.log_probabilities.mean(dtype=np.float64)))


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return the probability of both kinds of items."""
    return truth_metrics("probability", probability)
