"""Measure KnowMem: does the model answer questions about the texts?

MUSE's M2 (forget) and M4 (retain), arXiv 2407.06460.

As in MUSE's own code: the split's in-context pairs and then the question, greedy, at most 32 new tokens, and the answer
ends where another question would begin. A question that is asked in several ways has the score of its best answer.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Split
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample
from quail_audit.engine.forgetting.metrics.questions import Asked, ways_to_ask
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
        asked = ways_to_ask(questions, model)
        left = Counter(each.index for each in asked)  # question -> ways that are not answered yet
        best: dict[int, tuple[float, int, str]] = {}  # question -> score, place of the way, answer
        for place, answer in _answers(model, asked):
            index = asked[place].index
            score = rouge_l(questions.asked[index].answer, answer)
            if index not in best or (score, -place) > (best[index][0], -best[index][1]):
                best[index] = (score, place, answer)
            left[index] -= 1
            if left[index]:
                continue
            scores[index], chosen, answer = best.pop(index)
            prompt, way = asked[chosen].question, asked[chosen].way
            truth = questions.asked[index].answer
            yield Sample(index, scores[index], prompt=prompt, truth=truth, answer=answer, way=way)
        return Measured(mean_score(scores, seed=seed), scores)


def _answers(model: LanguageModel, asked: Sequence[Asked]) -> Iterator[tuple[int, str]]:
    """Yield the place of each prompt and its answer.

    Texts are answered before chats: those of one form begin alike, with the examples, and what they share is read once.
    """
    for is_chat in (False, True):
        places = [place for place, each in enumerate(asked) if each.is_chat == is_chat]
        if not places:
            continue
        prompts = [asked[place].prompt for place in places]
        for found, answer in model.continuations(prompts, max_new_tokens=MAX_NEW_TOKENS, stop_words=STOP_WORDS):
            yield places[found], answer


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return KnowMem of both splits."""
    return tuple(KnowMem(split) for split in SPLITS)
