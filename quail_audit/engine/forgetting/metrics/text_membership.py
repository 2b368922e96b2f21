"""Measure whether a language model's probabilities show that it was trained on the forget set.

This is membership inference by four scores of a text, which all come from one pass over it: by its loss (Yeom et al.,
arXiv 1709.01604), by its loss over the bytes that zlib makes of it (Carlini et al., arXiv 2012.07805), by its least
likely tokens (privleak.py), and by these as they stand in the model's own distribution (Min-K%++, Zhang et al., arXiv
2404.02936). The definitions are open-unlearning's, with their signs turned so that high means known. auc.py says what
is made of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.metrics.auc import auc_score, holdout_wins, membership_values
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample, TokenScores
from quail_audit.engine.forgetting.metrics.nll import EXCERPT_CHARACTERS, read_texts

LEAST_LIKELY_SHARE = 0.4
LEAST_VARIANCE = 1e-6  # of the log-probability under the model's distribution, as in open-unlearning


class TextMembership(Metric[LanguageModel]):
    """AUC x 100 of one score of texts, holdout against forget.

    The samples are the forget texts and, after them, the holdout texts. A text's score is its own part of the AUC, in
    per cent: for a holdout text the share of forget texts below it, for a forget text the share of holdout texts above
    it; the mean of either kind is the AUC. Measured.values is float64 [forget + holdout, 2]: the score, and 1 for
    holdout.

    Args:
        name: the metric's name.
        score_text: returns the score of a text from its tokens', of which there may be none.
    """

    needs = "privleak/forget.json and privleak/holdout.json"
    generates = False

    def __init__(self, name: str, score_text: Callable[[TokenScores], float]) -> None:
        self.name = name
        self.score_text = score_text

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts in both sets; 0 if one is absent."""
        forget, holdout = data.texts.get("forget", ()), data.texts.get("holdout", ())
        return len(forget) + len(holdout) if forget and holdout else 0

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric. Holdout texts are scored as they are read, forget texts once all holdout texts are known."""
        forget, holdout = data.texts["forget"], data.texts["holdout"]
        of_forget = np.zeros(len(forget))
        for index, found in read_texts(data, "forget", model):
            of_forget[index] = self.score_text(found)
        of_holdout = np.zeros(len(holdout))
        for index, found in read_texts(data, "holdout", model):
            of_holdout[index] = self.score_text(found)
            placed = 100.0 * float(holdout_wins(of_forget, of_holdout[index]).mean())
            yield Sample(len(forget) + index, placed, prompt=holdout[index][:EXCERPT_CHARACTERS])
        for index, text in enumerate(forget):
            placed = 100.0 * float(holdout_wins(of_forget[index], of_holdout).mean())
            yield Sample(index, placed, prompt=text[:EXCERPT_CHARACTERS])
        return Measured(auc_score(of_forget, of_holdout, seed), membership_values(of_forget, of_holdout))


def mean_nats(found: TokenScores) -> float:
    """Return the mean log-probability of a text's tokens, in nats: the loss by its negative."""
    return float(found.log_probabilities.mean(dtype=np.float64)) if found.tokens else 0.0


def nats_by_zlib(found: TokenScores) -> float:
    """Return the mean log-probability over the bytes that zlib makes of the text as far as it was read."""
    return mean_nats(found) / len(zlib.compress(found.text.encode()))


def min_k_plus_plus(found: TokenScores) -> float:
    """Return Min-40%++: as Min-40% Prob, of log-probabilities that are standardised by their distribution's spread."""
    if found.means is None or found.deviations is None:
        raise ValueError("the text was read without its spread")
    deviations = np.sqrt(np.maximum(np.square(found.deviations), LEAST_VARIANCE))
    return mean_of_least((found.log_probabilities - found.means) / deviations)


def mean_of_least(of_tokens: npt.NDArray[np.floating[Any]]) -> float:
    """Return the mean of the 40 % least of a text's values [tokens].

    Their number is rounded down, as in MUSE's code, but is at least one; a text without any scores 0.
    """
    if not of_tokens.size:
        return 0.0
    count = max(1, int(of_tokens.size * LEAST_LIKELY_SHARE))
    return float(np.sort(of_tokens)[:count].mean(dtype=np.float64))


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return all attacks but Min-40% Prob, which is PrivLeak's."""
    scores = {"loss": mean_nats, "zlib": nats_by_zlib, "min_k_plus_plus": min_k_plus_plus}
    return tuple(TextMembership(f"membership_{name}", score) for name, score in scores.items())
