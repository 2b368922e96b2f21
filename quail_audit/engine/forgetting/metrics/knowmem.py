"""Measure KnowMem: does the model answer questions about the texts?

MUSE's M2 (forget) and M4 (retain), arXiv 2407.06460.

As in MUSE's own code: the split's in-context pairs and then the question, greedy, at most 32 new tokens, and the answer
ends where another question would begin. A question that is asked in several ways has the score of its best answer.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Questions, Split
from quail_audit.engine.forgetting.metrics.asking import best_of_ways
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
        for best in best_of_ways([each.index for each in asked], _score_answers(model, questions, asked)):
            prompt, answer = best.found
            scores[best.item] = best.score
            truth = questions.asked[best.item].answer
            yield Sample(best.item, best.score, prompt=prompt, truth=truth, answer=answer, way=best.way)
        return Measured(mean_score(scores, seed=seed), scores)


def _score_answers(
    model: LanguageModel, questions: Questions, asked: Sequence[Asked]
) -> Iterator[tuple[int, Mapping[str, float], tuple[str, str]]]:
    """Yield the place of each prompt, the score of its answer, and the question in its words with the answer.

    Texts are answered before chats: those of one form begin alike, with the examples, and what they share is read once.
    """
    for is_chat in (False, True):
        places = [place for place, each in enumerate(asked) if each.is_chat == is_chat]
        if not places:
            continue
        prompts = [asked[place].prompt for place in places]
        for found, answer in model.continuations(prompts, max_new_tokens=MAX_NEW_TOKENS, stop_words=STOP_WORDS):
            each = asked[places[found]]
            score = rouge_l(questions.asked[each.index].answer, answer)
            yield places[found], {each.way: score}, (each.question, answer)


def metrics() -> tuple[Metric[LanguageModel], ...]:
    """Return KnowMem of both splits."""
    return tuple(KnowMem(split) for split in SPLITS)
