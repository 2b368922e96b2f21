"""Scores of truths and of membership, by hand and by open-unlearning's definitions, rebuilt plainly."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from transformers import LlamaForCausalLM

from quail_audit.engine.forgetting.data.types import Continuation, ForgettingData, QuestionAnswer, Questions
from quail_audit.engine.forgetting.metrics.asking import Best, best_of_ways
from quail_audit.engine.forgetting.metrics.auc import auc
from quail_audit.engine.forgetting.metrics.exact_memorization import exact_memorization
from quail_audit.engine.forgetting.metrics.extraction_strength import extraction_strength
from quail_audit.engine.forgetting.metrics.interface import Chat, Measured, Sample, TokenScores, Truth
from quail_audit.engine.forgetting.metrics.privleak import min_k_probability
from quail_audit.engine.forgetting.metrics.probability import probability
from quail_audit.engine.forgetting.metrics.registry import metric_named
from quail_audit.engine.forgetting.metrics.text_membership import mean_nats, min_k_plus_plus, nats_by_zlib
from quail_audit.engine.forgetting.metrics.truths import tokens_given
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from tests.support.places import SHARED_DATA
from tests.support.tiny_language_models import POSTS

SCORES = ("probability", "extraction_strength", "exact_memorization")


def tokens(nats: Sequence[float], likeliest: Sequence[int] = (), text: str = "") -> TokenScores:
    is_likeliest = np.array(likeliest or [0] * len(nats), dtype=bool)
    return TokenScores(text, np.array(nats, dtype=np.float32), is_likeliest)


def data(**parts: Any) -> ForgettingData:
    return ForgettingData(**{"folder": Path(), "continuations": {}, "questions": {}, "texts": {}, **parts})


def measure(name: str, of: ForgettingData, model: Any) -> tuple[dict[int, Sample], Measured]:
    found, measuring = {}, metric_named(name).measure(of, model, seed=0)
    while True:
        try:
            sample = next(measuring)
        except StopIteration as end:
            return found, end.value
        assert sample.index not in found
        found[sample.index] = sample


# -- by hand


@pytest.mark.parametrize(
    ("likeliest", "strength", "memorized"),
    [
        ([1, 1, 1, 1], 100.0, 100.0),
        ([0, 1, 1, 1], 75.0, 75.0),  # one must be given
        ([1, 0, 1, 1], 50.0, 75.0),  # two, although the first was right
        ([1, 1, 1, 0], 0.0, 75.0),
        ([0, 0, 0, 0], 0.0, 0.0),
        ([1], 100.0, 100.0),
        ([0], 0.0, 0.0),
    ],
)
def test_strength_and_memorization_by_hand(likeliest: list[int], strength: float, memorized: float) -> None:
    found = tokens([-1.0] * len(likeliest), likeliest)
    assert extraction_strength(found) == pytest.approx(strength)
    assert exact_memorization(found) == pytest.approx(memorized)


def test_probability_by_hand() -> None:
    assert probability(tokens(np.log([0.5, 0.125]))) == pytest.approx(25.0)


@pytest.mark.parametrize(("count", "given"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (128, 32)])
def test_a_quarter_is_given_rounded_up_and_one_is_left(count: int, given: int) -> None:
    assert tokens_given(count) == given


# -- a model that says what it is told to


class Scripted:
    """Scores truths by a script, the last first, as a batched model may; a chat template writes the question alone."""

    prompt_format = "auto"
    has_template = False

    def __init__(self, script: Callable[[Truth], TokenScores]) -> None:
        self.script = script
        self.asked: list[tuple[int | None, tuple[Truth, ...]]] = []

    def truth_scores(
        self, truths: Sequence[Truth], *, most_tokens: int | None = None
    ) -> Iterator[tuple[int, TokenScores]]:
        self.asked.append((most_tokens, tuple(truths)))
        for index in reversed(range(len(truths))):
            yield index, self.script(truths[index])

    def chat_prompts(self, chats: Sequence[Chat]) -> Sequence[str | None]:
        return [f"<{chat.turns[-1]}>" if self.has_template else None for chat in chats]

    def token_scores(self, texts: Sequence[str], *, spread: bool = False) -> Iterator[tuple[int, TokenScores]]:
        for index in reversed(range(len(texts))):
            yield index, self.script(Truth("", texts[index]))


ROWS = (
    Continuation(prompt="p0", truth="a"),
    Continuation(prompt="p1", truth="b"),
    Continuation(prompt="p2", truth="c"),
)


def test_a_refusal_in_front_of_the_truth_shows_at_the_longer_prompt() -> None:
    """The first quarter is unlikely and the rest is known: what a greedy answer to the prompt hides."""
    model = Scripted(lambda _: tokens([-9.0, -9.0, *[0.0] * 6], [0, 0, *[1] * 6], "seen"))
    for name, hidden in (
        ("probability", 100 * np.exp(-18 / 8)),
        ("extraction_strength", 75.0),
        ("exact_memorization", 75.0),
    ):
        found, measured = measure(f"verbmem_{name}_forget", data(continuations={"forget": ROWS}), model)
        assert hidden < 99
        assert measured.values.tolist() == [100.0] * 3
        assert {sample.way for sample in found.values()} == {"longer prompt"}
        assert (found[1].prompt, found[1].truth) == ("p1", "seen")
    assert model.asked[0] == (128, tuple(Truth(row.prompt, row.truth) for row in ROWS))


def test_the_way_is_the_datas_own_if_the_longer_prompt_brings_no_more() -> None:
    model = Scripted(lambda _: tokens([-1.0, -2.0, -2.0, -2.0], [1, 1, 1, 1]))
    found, measured = measure("verbmem_probability_forget", data(continuations={"forget": ROWS}), model)
    assert {sample.way for sample in found.values()} == {""}
    assert measured.values == pytest.approx([100 * np.exp(-7 / 4)] * 3)
    found, _ = measure("verbmem_extraction_strength_forget", data(continuations={"forget": ROWS}), model)
    assert {sample.way for sample in found.values()} == {""}, "at equal scores the data's own way is named"


def test_truths_of_one_token_and_of_none() -> None:
    """One token has no longer prompt; none scores 0, on every arm alike."""
    model = Scripted(lambda truth: {"a": tokens([np.log(0.5)], [1]), "b": tokens([])}.get(truth.text, tokens([-1, -1])))
    for name, expected in (("probability", [50.0, 0.0, 100 / np.e]), ("extraction_strength", [100.0, 0.0, 0.0])):
        found, measured = measure(f"verbmem_{name}_forget", data(continuations={"forget": ROWS}), model)
        assert measured.values == pytest.approx(expected)
        assert [found[item].way for item in range(2)] == ["", ""]
        assert np.isfinite([measured.score.mean, measured.score.low, measured.score.high]).all()


def test_answers_are_read_whole_as_the_prompt_shows_them() -> None:
    questions = Questions(asked=(QuestionAnswer(question="Who?", answer="Tavi"),), examples=())
    ends = {"": tokens([-1.0, -9.0], [1, 0], "Tavi"), "\n\n": tokens([-1.0, 0.0], [1, 1], "Tavi")}
    model = Scripted(lambda truth: ends[truth.after])
    found, measured = measure("knowmem_probability_forget", data(questions={"forget": questions}), model)
    assert model.asked == [(None, tuple(Truth("Question: Who?\nAnswer: ", "Tavi", after) for after in ("", "\n\n")))]
    assert measured.values == pytest.approx([100 * np.exp(-0.5)]), "the more of both, and no longer prompt"
    assert found[0].prompt == "Who?"
    assert found[0].way == ""


@pytest.mark.parametrize("score", SCORES)
def test_scores_that_are_all_alike(score: str) -> None:
    model = Scripted(lambda _: tokens([0.0, 0.0], [1, 1]))
    _, measured = measure(f"verbmem_{score}_forget", data(continuations={"forget": ROWS}), model)
    assert (measured.score.mean, measured.score.low, measured.score.high) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize("name", ["privleak", "membership_loss", "membership_zlib"])
def test_membership_of_texts_that_are_all_alike_is_a_coin(name: str) -> None:
    model = Scripted(lambda truth: tokens([-1.0, -1.0], text="the same"))
    of = data(texts={"forget": ("a", "b", "c"), "holdout": ("d", "e")})
    found, measured = measure(name, of, model)
    assert measured.score.mean == 50.0
    assert {sample.score for sample in found.values()} == {50.0}


def test_a_text_of_no_token_has_a_place() -> None:
    assert [score(tokens([])) for score in (mean_nats, nats_by_zlib, min_k_probability)] == [0.0] * 3


# -- ways


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(
            st.dictionaries(st.sampled_from(["", "x", "y"]), st.integers(0, 3), min_size=1), min_size=1, max_size=3
        ),
        max_size=4,
    ),
    st.randoms(),
)
def test_the_best_way_is_the_first_of_the_highest(items: list[list[Mapping[str, float]]], random: Any) -> None:
    asked: list[int] = []
    scored = []
    for item, ways in enumerate(items):
        for scores in ways:
            scored.append((len(asked), scores, f"{item}/{len(asked)}"))
            asked.append(item)
    expected: dict[int, Best[str]] = {}
    for place, scores, detail in scored:
        for way, score in scores.items():
            best = expected.get(asked[place])
            if best is None or score > best.score:
                expected[asked[place]] = Best(asked[place], score, way, detail)
    random.shuffle(scored)
    found = list(best_of_ways(asked, scored))
    assert sorted(found, key=lambda best: best.item) == list(expected.values())


def test_an_item_is_told_as_soon_as_all_its_ways_are_scored() -> None:
    seen: list[int] = []

    def scored() -> Iterator[tuple[int, dict[str, float], None]]:
        for place in (1, 2, 0):
            seen.append(place)
            yield place, {f"way {place}": float(place)}, None

    told = [(best.item, best.way, tuple(seen)) for best in best_of_ways([0, 1, 0], scored())]
    assert told == [(1, "way 1", (1,)), (0, "way 2", (1, 2, 0))]


def test_questions_are_scored_in_every_way_that_they_are_asked() -> None:
    row = QuestionAnswer(question="Who?", answer="Tavi", paraphrases=("Which one?",))
    nats = {"Question: Who?\nAnswer: ": -3.0, "Question: Which one?\nAnswer: ": -2.0, "<Who?>": -1.0}
    of = data(questions={"forget": Questions(asked=(row,), examples=())})
    for has_template, way, shown, best in (
        (False, "paraphrase", "Which one?", -2.0),
        (True, "chat template", "Who?", -1.0),
    ):
        model = Scripted(lambda truth: tokens([nats[truth.prompt]]))
        model.has_template = has_template
        found, measured = measure("knowmem_probability_forget", of, model)
        assert measured.values == pytest.approx([100 * np.exp(best)])
        assert (found[0].way, found[0].prompt) == (way, shown)
        chats = [truths for _, truths in model.asked if truths[0].prompt.startswith("<")]
        assert chats == ([(Truth("<Who?>", "Tavi"),)] if has_template else []), "asked apart from texts"


# -- open-unlearning's definitions, rebuilt from reading its code


class Peer:
    """Per-item scores as src/evals/metrics computes them: labels are -100 but for the tokens of the target."""

    def __init__(self, model: Any, ids: list[int], first: int, text: str = "") -> None:
        self.text = text
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].double()
        self.every = torch.log_softmax(logits, dim=-1)[first - 1 :]
        self.labels = torch.tensor(ids[first:])
        self.target = self.every[torch.arange(len(self.labels)), self.labels]
        self.guesses = self.every.argmax(-1)

    def prob(self) -> float:
        """evaluate_probability: exp of the mean cross entropy, by its sign."""
        return float(torch.exp(-torch.nn.functional.cross_entropy(self.every, self.labels)))

    def strength(self) -> float:
        """extraction_strength: the loop that ends at the last token."""
        for k in range(len(self.labels)):
            if torch.equal(self.guesses[k:], self.labels[k:]):
                break
        return 1 - k / len(self.labels)

    def memorization(self) -> float:
        return float((self.guesses == self.labels).double().mean())

    def loss(self) -> float:
        return float(torch.nn.functional.cross_entropy(self.every, self.labels))

    def zlib(self) -> float:
        return self.loss() / len(zlib.compress(self.text.encode("utf-8")))

    def min_k(self, k: float = 0.4) -> float:
        least = np.sort(self.target.numpy())[: max(1, int(len(self.target) * k))]
        return -float(least.mean())

    def min_k_plus_plus(self, k: float = 0.4) -> float:
        mu = (self.every.exp() * self.every).sum(-1)
        sigma = (self.every.exp() * self.every.square()).sum(-1) - mu.square()
        scores = sorted(((self.target - mu) / sigma.clamp(min=1e-6).sqrt()).tolist())
        return -float(np.mean(scores[: max(1, int(len(scores) * k))]))


def test_truths_score_as_open_unlearnings(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    model = TransformersModel(llama, tokenizer)
    texts = [*POSTS, *(post.replace("lost", "found").replace("wept", "won") for post in POSTS)]
    places = [text.index(" mayor") for text in texts]
    truths = [Truth(text[:place], text[place:]) for text, place in zip(texts, places, strict=True)]
    reached = set()
    for index, found in model.truth_scores(truths):
        prompt, whole = (tokenizer(text)["input_ids"] for text in (truths[index].prompt, texts[index]))
        peer = Peer(llama, whole, len(prompt))
        assert probability(found) == pytest.approx(100 * peer.prob(), abs=1e-3)  # 1e-5 of a share
        assert exact_memorization(found) == pytest.approx(100 * peer.memorization())
        ours = extraction_strength(found)
        # where the last token is not the argmax, its loop stops one early
        assert max(ours, 100 / found.tokens) == pytest.approx(100 * peer.strength())
        reached.add(ours)
    assert 100.0 in reached
    assert len(reached) > 1


def test_texts_score_as_open_unlearnings(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    forget = POSTS
    holdout = tuple(post.replace("lost", "found").replace("wept", "won") for post in POSTS[:4])
    of = data(texts={"forget": forget, "holdout": holdout})
    model = TransformersModel(llama, tokenizer)
    peers = [Peer(llama, tokenizer(text)["input_ids"], 1, text) for text in (*forget, *holdout)]
    labels = [0] * len(forget) + [1] * len(holdout)
    for name, ours, theirs in (
        ("membership_loss", mean_nats, Peer.loss),
        ("membership_zlib", nats_by_zlib, Peer.zlib),
        ("privleak", min_k_probability, Peer.min_k),
        ("membership_min_k_plus_plus", min_k_plus_plus, Peer.min_k_plus_plus),
    ):
        expected = [theirs(peer) for peer in peers]
        scored = {**dict(model.token_scores(forget, spread=True))}
        assert [-ours(scored[index]) for index in range(len(forget))] == pytest.approx(
            expected[: len(forget)], abs=1e-4
        )
        _, measured = measure(name, of, model)
        # theirs is high for what is unknown, and near 1 if the forget set is memorised
        assert 100 - measured.score.mean == pytest.approx(100 * roc_auc_score(labels, expected))
        assert -measured.values[:, 0] == pytest.approx(np.array(expected), abs=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["npo-full", "npo-4bit"])
def test_the_aggregates_of_open_unlearnings_logs(name: str) -> None:
    """Each aggregate of a log follows from its items by our formulas, in the half precision that it was written in."""
    log = json.loads((SHARED_DATA / "open-unlearning-logs" / f"{name}.json").read_text())
    for metric in ("forget_Q_A_Prob", "retain_Q_A_Prob", "forget_Q_A_PARA_Prob"):
        items = log[metric]["value_by_index"].values()
        found = [probability(tokens([-item["avg_loss"]])) for item in items]
        assert found == pytest.approx([100 * item["prob"] for item in items], rel=2e-2, abs=1e-2)
        assert np.mean(found) == pytest.approx(100 * log[metric]["agg_value"], rel=2e-3)
    strengths = [item["score"] for item in log["extraction_strength"]["value_by_index"].values()]
    assert np.mean(strengths) == pytest.approx(log["extraction_strength"]["agg_value"])
    assert min(strengths) > 0, "its reading has a floor of 1 / n, ours is 0 there"
    sets = [
        np.array([-item["score"] for item in log["mia_min_k"][which]["value_by_index"].values()])
        for which in ("forget", "holdout")
    ]
    assert 100 - float(auc(*sets)) == pytest.approx(100 * log["mia_min_k"]["auc"])
