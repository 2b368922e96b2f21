"""Measure VerbMem: whether the model continues a text as the text itself did.

It is MUSE's M1 (arXiv 2407.06460, section 3.1). As in MUSE's own code: greedy, at most 128 new tokens, the truth cut to
its first 128 tokens (special ones counted). A continuation is not cut if the truth ends sooner: a model that does not
stop there scores less, here as in MUSE.
"""

from collections.abc import Generator

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Split
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.rouge import rouge_l

MAX_NEW_TOKENS = 128


class VerbMem(Metric[LanguageModel]):
    """ROUGE-L F1 x 100 of greedy continuations."""

    generates = True

    def __init__(self, split: Split) -> None:
        self.split = split
        self.name = f"verbmem_{split}"
        self.needs = f"verbmem/{split}.json or {split}.jsonl with {{prompt, completion}}"

    def samples(self, data: ForgettingData) -> int:
        """Return the number of texts."""
        return len(data.continuations.get(self.split, ()))

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric."""
        rows = data.continuations[self.split]
        scores = np.zeros(len(rows))
        for index, answer in model.continuations([row.prompt for row in rows], max_new_tokens=MAX_NEW_TOKENS):
            truth = model.cut(rows[index].truth, MAX_NEW_TOKENS)
            scores[index] = rouge_l(truth, answer)
            yield Sample(index, scores[index], prompt=rows[index].prompt, truth=truth, answer=answer)
        return Measured(mean_score(scores, seed=seed), scores)


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return VerbMem of both splits. MUSE measures the forget set only; the retain set's tells what unlearning cost."""
    return tuple(VerbMem(split) for split in SPLITS)
