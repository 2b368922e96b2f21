"""What is marked as shared must be what the score counts: against a plain table, and against rouge-score itself."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.engine.forgetting.metrics.rouge import rouge_l
from quail_audit.reports.shared_words import MOST_WORDS, SharedWords, shared_words, words_of

WORDS = st.lists(st.sampled_from(["a", "b", "c", "the", "of", "x1"]), max_size=30)
TEXTS = st.text(alphabet="aAbB z09.,\n\tİK\u017fß\x1b[]é\u202e", max_size=60)


def longest_common(first: list[str], second: list[str]) -> int:
    """The textbook's table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


def f1(shared: SharedWords) -> float:
    words = shared.truth_words + shared.answer_words
    return 200.0 * len(shared.spans) / words if words else 0.0


def is_subsequence(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(word in rest for word in few)


@given(WORDS, WORDS)
def test_marked_words_are_a_longest_common_subsequence(truth: list[str], answer: list[str]) -> None:
    text = " ".join(answer)
    shared = shared_words(" ".join(truth), text)
    marked = [text[start:end] for start, end in shared.spans]
    assert len(marked) == longest_common(truth, answer)
    assert is_subsequence(marked, truth)
    assert list(shared.spans) == sorted(shared.spans)


@given(TEXTS, TEXTS)
def test_marked_words_give_the_score_of_rouge(truth: str, answer: str) -> None:
    assert f1(shared_words(truth, answer)) == pytest.approx(rouge_l(truth, answer), abs=1e-9)


@given(TEXTS)
def test_words_are_those_of_rouge(text: str) -> None:
    from rouge_score.tokenize import tokenize

    assert [word.text for word in words_of(text)] == tokenize(text, None)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Erase debt, erase!", ["Erase", "debt", "erase"]),
        ("İstanbul 12", ["İ", "stanbul", "12"]),  # İ in lower case is an i and a dot that is no letter
        ("273 K", ["273", "K"]),  # the Kelvin sign is a k in lower case
        ("don't", ["don", "t"]),
        ("", []),
        ("مرحبا — 東京", []),
    ],
)
def test_words_stand_where_they_are_said_to(text: str, spans: list[str]) -> None:
    assert [text[word.start : word.end] for word in words_of(text)] == spans


def test_a_word_counts_once_and_in_order() -> None:
    shared = shared_words("erase debt after 47 tests", "After 47 tests they erase debt, erase it")
    assert shared.spans == ((0, 5), (6, 8), (9, 14))


def test_a_long_text_is_compared_up_to_a_limit_and_says_so() -> None:
    rng = random.Random(0)
    truth, answer = (" ".join(rng.choices("abcdefgh", k=MOST_WORDS + 500)) for _ in range(2))
    shared = shared_words(truth, answer)
    assert not shared.is_whole
    assert shared.truth_words == shared.answer_words == MOST_WORDS
    assert shared_words("a b", "b a").is_whole
