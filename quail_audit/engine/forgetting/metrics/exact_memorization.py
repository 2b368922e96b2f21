"""Measure exact memorization: the share of the truth's tokens that are the argmax, x 100.

Tirumala et al., arXiv 2205.10770; open-unlearning's EM.
"""

from __future__ import annotations

from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Metric, TokenScores
from quail_audit.engine.forgetting.metrics.truths import truth_metrics


def exact_memorization(found: TokenScores) -> float:
    """Return the share of tokens, x 100."""
    return 100.0 * float(found.is_likeliest.mean())


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return the exact memorization of both kinds of items."""
    return truth_metrics("exact_memorization", exact_memorization)
