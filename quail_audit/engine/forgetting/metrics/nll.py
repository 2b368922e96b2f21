"""Measure NLL: the mean loss of a text's tokens, in nats.

It is cheap, so it is first on screen. It reads PrivLeak's texts (privleak/*.json, or {text} rows), whose forward passes
it shares; without them, VerbMem's texts, prompt and truth in one. Low means well known. Each text counts alike in the
mean, however long.
"""

from collections.abc import Generator, Iterator
from typing import Literal

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Split
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample, TokenScores

EXCERPT_CHARACTERS = 200  # of a text, to show which one it is


class NegativeLogLikelihood(Metric[LanguageModel]):
    """Mean token loss of each text, in nats."""

    generates = False

    def __init__(self, split: Split) -> None:
        self.split = split
        self.name = f"nll_{split}"
        self.needs = f"privleak/{split}.json, verbmem/{split}.json or {split}.jsonl with {{text}}"

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts."""
        return len(loss_texts(data, self.split))

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric."""
        passages = loss_texts(data, self.split)
        losses = np.zeros(len(passages))
        for index, found in read_texts(data, self.split, model):
            losses[index] = -found.log_probabilities.mean(dtype=np.float64) if found.tokens else 0.0
            yield Sample(index, losses[index], prompt=passages[index][:EXCERPT_CHARACTERS])
        return Measured(mean_score(losses, seed=seed), losses)


def loss_texts(data: ForgettingData, split: Split) -> tuple[str, ...]:
    """Return the texts of a split whose loss is measured."""
    return data.texts.get(split) or tuple(row.prompt + row.truth for row in data.continuations.get(split, ()))


def read_texts(
    data: ForgettingData, name: Literal["forget", "retain", "holdout"], model: LanguageModel
) -> Iterator[tuple[int, TokenScores]]:
    """Score the tokens of a set's texts for all metrics that want them, so that each text is read once.

    Membership inference wants their spread as well, which needs both the forget and the holdout set.
    """
    passages = data.texts["holdout"] if name == "holdout" else loss_texts(data, name)
    spread = name != "retain" and bool(data.texts.get("forget")) and bool(data.texts.get("holdout"))
    return model.token_scores(passages, spread=spread)


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return the loss of both splits."""
    return tuple(NegativeLogLikelihood(split) for split in SPLITS)
