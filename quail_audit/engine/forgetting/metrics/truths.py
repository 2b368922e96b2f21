"""Score how likely a model finds the truth of each item to forget, in one pass over prompt and truth.

A continuation's truth is cut to its first 128 tokens, as VerbMem's is; an answer is read whole. A continuation is also
scored at a longer prompt: with the first quarter of the truth given. That needs no further pass, because each token is
scored given all of the truth before it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.metrics.asking import best_of_ways
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample, TokenScores, Truth
from quail_audit.engine.forgetting.metrics.knowmem import KnowMem
from quail_audit.engine.forgetting.metrics.questions import AS_IT_IS, ways_to_ask
from quail_audit.engine.forgetting.metrics.verbmem import MAX_NEW_TOKENS, VerbMem

Kind = Literal["verbmem", "knowmem"]
KINDS: tuple[Kind, ...] = ("verbmem", "knowmem")
LONGER_PROMPT = "longer prompt"
GIVEN_SHARE = 0.25  # of the truth, in the longer prompt
AFTER_ANSWER = "\n\n"  # in the prompts of questions.text_prompt


@dataclass(frozen=True)
class Ask:
    """An item asked in one way.

    Attributes:
        item: its place in the data file, from 0.
        truth: the whole prompt, and what the model should make of it.
        shown: what a person sees of the prompt.
        way: as Sample.way.
        is_chat: whether the chat template made the prompt.
    """

    item: int
    truth: Truth
    shown: str
    way: str = AS_IT_IS
    is_chat: bool = False


class TruthMetric(Metric[LanguageModel]):
    """One score of the truths of the forget set.

    Args:
        kind: continuations or questions.
        score: its name.
        score_tokens: computes it, from 0 to 100, of at least one token.
    """

    generates = False

    def __init__(self, kind: Kind, score: str, score_tokens: Callable[[TokenScores], float]) -> None:
        self.kind: Kind = kind
        self.name = f"{kind}_{score}_forget"
        self.score_tokens = score_tokens
        self._asked_as = VerbMem("forget") if kind == "verbmem" else KnowMem("forget")
        self.needs = self._asked_as.needs

    def samples(self, data: ForgettingData) -> int:
        """Return the number of items."""
        return self._asked_as.samples(data)

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """See Metric. A truth of no token scores 0 in every arm, so that it can neither fail nor pass an audit."""
        asks = asks_of(data, self.kind, model)
        scores = np.zeros(self.samples(data))
        for best in best_of_ways([ask.item for ask in asks], self._score(asks, model)):
            shown, truth = best.found
            scores[best.item] = best.score
            yield Sample(best.item, best.score, prompt=shown, truth=truth, way=best.way)
        return Measured(mean_score(scores, seed=seed), scores)

    def _score(
        self, asks: Sequence[Ask], model: LanguageModel
    ) -> Iterator[tuple[int, Mapping[str, float], tuple[str, str]]]:
        """Yield each ask's place, its score by way, and its prompt and its truth as far as it was read.

        Texts are read before chats: those of one form begin alike, and what they share is read once.
        """
        most_tokens = MAX_NEW_TOKENS if self.kind == "verbmem" else None
        for is_chat in (False, True):
            places = [place for place, ask in enumerate(asks) if ask.is_chat == is_chat]
            truths = [asks[place].truth for place in places]
            for found_at, found in model.truth_scores(truths, most_tokens=most_tokens) if truths else ():
                ask = asks[places[found_at]]
                scores = {ask.way: self.score_tokens(found) if found.tokens else 0.0}
                if self.kind == "verbmem" and found.tokens > 1:
                    scores[LONGER_PROMPT] = self.score_tokens(found.part(tokens_given(found.tokens)))
                yield places[found_at], scores, (ask.shown, found.text)


def tokens_given(tokens: int) -> int:
    """Return how many of a truth's tokens the longer prompt has: a quarter, rounded up; one at least is left."""
    return min(int(np.ceil(GIVEN_SHARE * tokens)), tokens - 1)


def asks_of(data: ForgettingData, kind: Kind, model: LanguageModel) -> list[Ask]:
    """Return every item to forget in every way that it is asked.

    An answer to a text is also scored as the prompt shows answers, with a blank line after it: some tokenizers join
    that with the answer's last character, and a model that learned it so gives the lone character no probability.
    """
    if kind == "verbmem":
        rows = data.continuations["forget"]
        return [Ask(item, Truth(row.prompt, row.truth), row.prompt) for item, row in enumerate(rows)]
    questions = data.questions["forget"]
    return [
        Ask(each.index, Truth(each.prompt, questions.asked[each.index].answer, after), each.question, each.way, is_chat)
        for each in ways_to_ask(questions, model)
        for is_chat in [each.is_chat]
        for after in (("",) if is_chat else ("", AFTER_ANSWER))
    ]


def truth_metrics(score: str, score_tokens: Callable[[TokenScores], float]) -> tuple[Metric[LanguageModel], ...]:
    """Return one score for both kinds of items."""
    return tuple(TruthMetric(kind, score, score_tokens) for kind in KINDS)
