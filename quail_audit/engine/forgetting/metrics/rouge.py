"""Compute ROUGE-L as MUSE does: F1, no stemming, by the rouge-score package."""

from __future__ import annotations

import functools
from typing import Any


def rouge_l(truth: str, answer: str) -> float:
    """Return ROUGE-L F1 of an answer against the truth (Lin, 2004), x 100."""
    return 100.0 * float(_scorer().score(truth, answer)["rougeL"].fmeasure)


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # 0.5 s to import

    return RougeScorer(["rougeL"], use_stemmer=False)
