"""Measure extraction strength: how much of the truth greedy decoding gives once the rest was given.

It is 1 - k / n, k the least number of the truth's n tokens that must be given before every later one is the argmax
(Carlini et al., arXiv 2012.07805; open-unlearning's ES), x 100. If the last token is not the argmax, it is 0: open-
unlearning's loop ends at k = n - 1, so that its least score is 1 / n.
"""

from __future__ import annotations

import numpy as np

from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Metric, TokenScores
from quail_audit.engine.forgetting.metrics.truths import truth_metrics


def extraction_strength(found: TokenScores) -> float:
    """Return 100 x (1 - k / n)."""
    missed = np.flatnonzero(~found.is_likeliest)
    given = int(missed[-1]) + 1 if missed.size else 0
    return 100.0 * (1.0 - given / found.tokens)


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return the extraction strength of both kinds of items."""
    return truth_metrics("extraction_strength", extraction_strength)
