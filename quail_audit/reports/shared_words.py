"""Find the words that an answer shares with the truth, as ROUGE-L counts them.

They are a longest common subsequence. Words are split as by the rouge-score package that scores the answers, so that a
screen marks the words that the score counts: F1 = 2 · shared / (words of the truth + words of the answer). The package
takes over a second to import and gives only the number; a test compares this module with it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

# Longer texts are cut. Two texts of this length take some 20 ms; audits cut answers to 128 tokens.
MOST_WORDS = 4_000

_WORD = re.compile(r"[a-z0-9]+")


class Word(NamedTuple):
    """A word in lower case, and its place in the text: text[start:end]."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class SharedWords:
    """The words that an answer shares with the truth.

    Attributes:
        spans: places of the shared words in the answer, in order.
        truth_words, answer_words: number of words of each text, as far as it was compared.
        is_whole: whether both texts were compared to their ends.
    """

    spans: tuple[tuple[int, int], ...]
    truth_words: int
    answer_words: int
    is_whole: bool


def words_of(text: str) -> list[Word]:
    """Return the words as rouge-score splits them: runs of a to z and 0 to 9 in the text in lower case."""
    lowered = text.lower()
    places: range | list[int] = range(len(text))
    if len(lowered) != len(text):  # İ becomes two characters
        places = [place for place, character in enumerate(text) for _ in character.lower()]
    return [
        Word(match.group(), places[match.start()], places[match.end() - 1] + 1) for match in _WORD.finditer(lowered)
    ]


def shared_words(truth: str, answer: str) -> SharedWords:
    """Return the words of an answer that are in a longest common subsequence with the truth."""
    in_truth, in_answer = words_of(truth), words_of(answer)
    kept_truth, kept_answer = in_truth[:MOST_WORDS], in_answer[:MOST_WORDS]
    places = _common_places([word.text for word in kept_truth], [word.text for word in kept_answer])
    return SharedWords(
        spans=tuple((kept_answer[place].start, kept_answer[place].end) for place in places),
        truth_words=len(kept_truth),
        answer_words=len(kept_answer),
        is_whole=max(len(in_truth), len(in_answer)) <= MOST_WORDS,
    )


def _common_places(first: list[str], second: list[str]) -> list[int]:
    """Return the places, in the second list, of one longest common subsequence, ascending.

    Hyyrö's bit-parallel recurrence (2004): after i words of the first list, the j-th bit of a row is 0 if the longest
    common subsequence of first[:i] and second[: j + 1] is one longer than the one with second[:j]. A row is one
    integer, so a step costs a few operations at any length. The rows are kept to trace the subsequence back.
    """
    occurrences: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(second):
        occurrences[word] |= 1 << place
    everywhere = (1 << len(second)) - 1
    rows = [everywhere]
    for word in first:
        row = rows[-1]
        matches = row & occurrences.get(word, 0)
        rows.append(((row + matches) | (row - matches)) & everywhere)
    found = []
    i, j = len(first), len(second)
    while i and j:
        bit = 1 << (j - 1)
        if rows[i] & bit:
            j -= 1
        elif rows[i - 1] & bit:  # the subsequence grew with this word of the first list: a match
            i, j = i - 1, j - 1
            found.append(j)
        else:
            i -= 1
    return found[::-1]
