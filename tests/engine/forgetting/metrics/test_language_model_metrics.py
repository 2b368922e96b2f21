"""The metrics on a model that says what it is told to say: each number by hand or by a plain second way."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import auc as area
from sklearn.metrics import roc_auc_score, roc_curve

from quail_audit.engine.forgetting.data.types import Continuation, ForgettingData, QuestionAnswer, Questions
from quail_audit.engine.forgetting.metrics.auc import auc
from quail_audit.engine.forgetting.metrics.interface import Chat, Measured, PromptFormat, Sample, TokenScores, Truth
from quail_audit.engine.forgetting.metrics.knowmem import KnowMem
from quail_audit.engine.forgetting.metrics.nll import NegativeLogLikelihood, loss_texts
from quail_audit.engine.forgetting.metrics.privleak import min_k_probability, relative_auc
from quail_audit.engine.forgetting.metrics.questions import text_prompts
from quail_audit.engine.forgetting.metrics.registry import metric_named
from quail_audit.engine.forgetting.metrics.rouge import rouge_l
from quail_audit.engine.forgetting.metrics.verbmem import VerbMem
from quail_audit.schema.figures import Score


class ScriptedModel:
    """Answers by a script, in reverse order, as a batched model may; counts a word as a token.

    Its chat template writes the turns one after another, and is asked for if the model has any.
    """

    prompt_format: PromptFormat = "auto"
    has_template = False

    def __init__(
        self,
        answers: dict[str, str] | None = None,
        truths: dict[Truth, TokenScores] | None = None,
        **likelihoods: list[float],
    ) -> None:
        self.answers = answers or {}
        self.truths = truths or {}
        self.likelihoods = likelihoods
        self.asked: list[tuple[Any, tuple[Any, ...]]] = []

    def chat_prompts(self, chats: Sequence[Chat]) -> Sequence[str | None]:
        return [" | ".join(chat.turns) if self.has_template else None for chat in chats]

    def continuations(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop_words: Sequence[str] = ()
    ) -> Iterator[tuple[int, str]]:
        self.asked.append((max_new_tokens, tuple(stop_words)))
        for index in reversed(range(len(prompts))):
            yield index, self.answers[prompts[index]]

    def log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        for index in reversed(range(len(texts))):
            yield index, np.array(self.likelihoods[texts[index]], dtype=np.float32)

    def token_scores(self, texts: Sequence[str], *, spread: bool = False) -> Iterator[tuple[int, TokenScores]]:
        for index, nats in self.log_probabilities(texts):
            yield index, token_scores(nats, text=texts[index])

    def truth_scores(
        self, truths: Sequence[Truth], *, most_tokens: int | None = None
    ) -> Iterator[tuple[int, TokenScores]]:
        self.asked.append((most_tokens, tuple(truths)))
        for index in reversed(range(len(truths))):
            yield index, self.truths[truths[index]]

    def cut(self, text: str, tokens: int) -> str:
        return " ".join(text.split()[:tokens])


def token_scores(nats: Any, likeliest: Sequence[int] = (), text: str = "", **spread: Any) -> TokenScores:
    found = np.array(nats, dtype=np.float32)
    is_likeliest = np.array(likeliest, dtype=bool) if len(likeliest) else np.zeros(found.shape, dtype=bool)
    return TokenScores(text, found, is_likeliest, **spread)


def run(samples: Generator[Sample, None, Measured]) -> tuple[list[Sample], Measured]:
    found = []
    while True:
        try:
            found.append(next(samples))
        except StopIteration as end:
            return found, end.value


def data(**parts: object) -> ForgettingData:
    values: dict[str, object] = {"continuations": {}, "questions": {}, "texts": {}}
    return ForgettingData(folder=Path(), **{**values, **parts})  # type: ignore[arg-type]


def plain_rouge_l(truth: list[str], answer: list[str]) -> float:
    """ROUGE-L F1 by its definition, over words."""
    if not truth or not answer:
        return 0.0

    def longest(i: int, j: int, known: dict[tuple[int, int], int]) -> int:
        if i == len(truth) or j == len(answer):
            return 0
        if (i, j) not in known:
            if truth[i] == answer[j]:
                known[i, j] = 1 + longest(i + 1, j + 1, known)
            else:
                known[i, j] = max(longest(i + 1, j, known), longest(i, j + 1, known))
        return known[i, j]

    common = longest(0, 0, {})
    precision, recall = common / len(answer), common / len(truth)
    return 100.0 * 2 * precision * recall / (precision + recall) if common else 0.0


words = st.lists(st.sampled_from(["a", "bee", "sea", "dee", "7"]), max_size=8)


@given(truth=words, answer=words)
def test_rouge_is_its_definition(truth: list[str], answer: list[str]) -> None:
    assert rouge_l(" ".join(truth), " ".join(answer)) == pytest.approx(plain_rouge_l(truth, answer))


def test_rouge_by_hand() -> None:
    # common: "the mayor wept", 3 of 5 words said and 3 of 4 true: F1 = 2 * 0.6 * 0.75 / 1.35
    assert rouge_l("The mayor wept joyfully", "the old mayor never wept!") == pytest.approx(100 * 0.9 / 1.35)


def test_verbmem_cuts_the_truth_and_keeps_the_order_of_the_file() -> None:
    rows = (
        Continuation(prompt="p0", truth=" ".join(["x"] * 200)),
        Continuation(prompt="p1", truth="one two three four"),
    )
    model = ScriptedModel({"p0": " ".join(["x"] * 128), "p1": "one two"})
    samples, measured = run(VerbMem("forget").measure(data(continuations={"forget": rows}), model, seed=0))
    assert [sample.index for sample in samples] == [1, 0]
    assert model.asked == [(128, ())]
    # the first is all of what was asked for; the second has 2 of 2 words right and 2 of 4 said: F1 = 2/3
    assert measured.values == pytest.approx([100.0, 200 / 3])
    assert measured.score.mean == pytest.approx((100 + 200 / 3) / 2)
    assert samples[1].truth == " ".join(["x"] * 128)
    assert (samples[0].prompt, samples[0].answer) == ("p1", "one two")


def test_knowmem_prompt_is_muses() -> None:
    questions = Questions(
        asked=(QuestionAnswer(question="Who?", answer="Nobody"),),
        examples=(QuestionAnswer(question="Where?", answer="Here"), QuestionAnswer(question="When?", answer="Now")),
    )
    (prompt,) = text_prompts(questions)
    assert prompt == "Question: Where?\nAnswer: Here\n\nQuestion: When?\nAnswer: Now\n\nQuestion: Who?\nAnswer: "
    model = ScriptedModel({prompt: "Nobody at all"})
    samples, measured = run(KnowMem("retain").measure(data(questions={"retain": questions}), model, seed=0))
    assert model.asked == [(32, ("\n\n", "\nQuestion", "Question:"))]
    assert measured.values == pytest.approx([50.0])  # 1 of 3 words said, 1 of 1 true
    assert samples[0].prompt == "Who?"


def test_nll_is_the_mean_over_texts_of_the_mean_over_tokens() -> None:
    model = ScriptedModel(long=[-1.0, -1.0, -1.0, -1.0], short=[-3.0], bare=[])
    found, measured = run(
        NegativeLogLikelihood("forget").measure(data(texts={"forget": ("long", "short", "bare")}), model, seed=0)
    )
    assert measured.values == pytest.approx([1.0, 3.0, 0.0])
    assert measured.score.mean == pytest.approx(4 / 3)
    assert len(found) == 3


def test_nll_reads_verbmem_where_there_are_no_texts() -> None:
    rows = (Continuation(prompt="It was", truth=" late"),)
    assert loss_texts(data(continuations={"retain": rows}), "retain") == ("It was late",)
    assert loss_texts(data(continuations={"retain": rows}, texts={"retain": ("t",)}), "retain") == ("t",)
    assert loss_texts(data(), "forget") == ()


@pytest.mark.parametrize(
    ("log_probabilities", "expected"),
    [
        ([-1.0, -5.0, -2.0, -4.0, -3.0], -4.5),  # 2 of 5: -5 and -4
        ([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], -5.5),  # int(2.4) = 2
        ([-1.0, -7.0], -7.0),  # int(0.8) = 0, but at least one
        ([-2.0], -2.0),
        ([], 0.0),
    ],
)
def test_min_k_by_hand(log_probabilities: list[float], expected: float) -> None:
    assert min_k_probability(token_scores(log_probabilities)) == pytest.approx(expected)


# few values, so that ties are common
scores = arrays(np.float64, st.integers(1, 12), elements=st.integers(-4, 4).map(float))


@given(of_forget=scores, of_holdout=scores)
def test_auc_by_ranks_is_scikit_learns(of_forget: np.ndarray, of_holdout: np.ndarray) -> None:
    labels = [0] * len(of_forget) + [1] * len(of_holdout)
    expected = 100 * roc_auc_score(labels, np.concatenate((of_forget, of_holdout)))
    assert auc(of_forget, of_holdout) == pytest.approx(expected)
    stacked = auc(np.stack([of_forget, -of_forget]), np.stack([of_holdout, -of_holdout]))
    assert stacked == pytest.approx([expected, 100 - expected])


def muse_auc(forget: list[float], holdout: list[float]) -> float:
    """As MUSE computes it: Min-K% Prob negated, forget texts labelled 0, and the sign turned back."""
    negated = -np.array([*forget, *holdout])
    false_positives, true_positives, _ = roc_curve([0] * len(forget) + [1] * len(holdout), -negated)
    return float(area(false_positives, true_positives))


def test_privleak_has_muses_sign() -> None:
    """A memorised forget set has an AUC near 0: MUSE-News' target model has PrivLeak -99.8."""
    model = ScriptedModel(f0=[-0.1], f1=[-0.2], f2=[-4.0], h0=[-3.0], h1=[-5.0])
    sets = {"forget": ("f0", "f1", "f2"), "holdout": ("h0", "h1")}
    found, measured = run(metric_named("privleak").measure(data(texts=sets), model, seed=0))
    # of the six pairs, only h0 over f2 is the wrong way round for a memorised set
    assert measured.score.mean == pytest.approx(100 / 6)
    assert measured.score.mean == pytest.approx(100 * muse_auc([-0.1, -0.2, -4.0], [-3.0, -5.0]))
    assert measured.score.low <= measured.score.mean <= measured.score.high
    assert [sample.index for sample in found] == [4, 3, 0, 1, 2]
    by_index = {sample.index: sample.score for sample in found}
    assert by_index == pytest.approx({0: 0.0, 1: 0.0, 2: 50.0, 3: 100 / 3, 4: 0.0})
    for of_one_set in ([0, 1, 2], [3, 4]):
        assert np.mean([by_index[index] for index in of_one_set]) == pytest.approx(measured.score.mean)
    assert measured.values[:, 1].tolist() == [0, 0, 0, 1, 1]
    assert roc_auc_score(measured.values[:, 1], measured.values[:, 0]) == pytest.approx(1 / 6)


def test_m3_against_the_known_reference_of_muse_news() -> None:
    """MUSE's table: an AUC of 0.0010 against the retrained model's 0.4772 is PrivLeak -99.8."""
    found = relative_auc(Score(mean=0.10, low=0.0, high=47.72, samples=200), 47.72)
    assert found.mean == pytest.approx(-99.79, abs=0.01)
    assert (found.low, found.high, found.samples) == (-100.0, pytest.approx(0.0), 200)


def test_samples_count_what_is_there() -> None:
    assert metric_named("privleak").samples(data(texts={"forget": ("a", "b"), "holdout": ("c",)})) == 3
    assert metric_named("privleak").samples(data(texts={"forget": ("a", "b")})) == 0
    assert KnowMem("forget").samples(data()) == 0
    assert VerbMem("forget").samples(data()) == 0
