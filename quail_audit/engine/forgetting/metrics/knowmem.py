"""Measure KnowMem: does the model answer questions about the texts?

MUSE's M2 (forget) and M4 (retain), arXiv 2407.06460.

As in MUSE's own code: the split's in-context pairs and then the question, greedy, at most 32 new tokens, and the answer
ends where another question would begin.
"""

from collections.abc import Generator

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Questions, Split
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.rouge import rouge_l

MAX_NEW_TOKENS = 32
STOP_WORDS = ("\n\n", "\nQuestion", "Question:")


class KnowMem(Metric[LanguageModel]):
    """ROUGE-L F1 x 100 of greedy answers."""

    generates = True

    def __init__(self, split: Split) -> None:
        self.split = split
        self.name = f"knowmem_{split}"
        self.needs = f"knowmem/{split}_qa.json or {split}.jsonl with {{question, answer}}"

    def samples(self, data: ForgettingData) -> int:
        """Return the number of questions."""
        return len(data.questions[self.split].asked) if self.split in data.questions else 0

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric."""
        questions = data.questions[self.split]
        scores = np.zeros(len(questions.asked))
        answers = model.continuations(prompts_of(questions), max_new_tokens=MAX_NEW_TOKENS, stop_words=STOP_WORDS)
        for index, answer in answers:
            row = questions.asked[index]
            scores[index] = rouge_l(row.answer, answer)
            yield Sample(index, scores[index], prompt=row.question, truth=row.answer, answer=answer)
        return Measured(mean_score(scores, seed=seed), scores)


def prompts_of(questions: Questions) -> list[str]:
    """Return the prompt of each question: the examples with their answers, then the question."""
    shown = "".join(f"Question: {row.question}\nAnswer: {row.answer}\n\n" for row in questions.examples)
    return [f"{shown}Question: {row.question}\nAnswer: " for row in questions.asked]


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return KnowMem of both splits."""
    return tuple(KnowMem(split) for split in SPLITS)
