"""Say how many items are back: the first thing that a reader of an audit sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quail_audit.schema.figures import ItemsBack, Knowledge, KnowledgeOutcome
from quail_audit.tui.live.run import KnownSoFar
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, items_word

Tone = Literal["fail", "inconclusive", "pass", "open"]  # open: not judged, or not yet
TONE_MARKS: Mapping[Tone, str] = {"fail": "✗", "inconclusive": "?", "pass": "✓", "open": ""}
_TONES: Mapping[KnowledgeOutcome, Tone] = {
    "not forgotten": "fail",
    "swapped": "fail",
    "comes back": "fail",
    "undecided": "inconclusive",
    "holds": "pass",
}
_STILL_THERE, _BACK = "still there in full precision", "back"


@dataclass(frozen=True)
class Headline:
    """How many items are back, in words, and how bad that is."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class _Count:
    count: int
    items: int
    word: str
    state: str
    tone: Tone

    @property
    def badness(self) -> tuple[int, float]:
        tones: tuple[Tone, ...] = ("pass", "inconclusive", "open", "fail")
        return tones.index(self.tone), self.count / max(1, self.items)


def tone_of(knowledge: Knowledge) -> Tone:
    """Return how bad it is for the verdict."""
    return _TONES.get(knowledge.outcome, "open")


def headline(known: Mapping[str, Knowledge], so_far: Mapping[str, KnownSoFar]) -> Headline | None:
    """Return the headline of a scheme: of texts and of answers, the metric by which most are back.

    Args:
        known: metric -> what is known, if it was measured.
        so_far: metric -> what is known so far, if it is being measured.

    Returns:
        None if nothing was counted, as in runs of an older Quail.
    """
    if any(knowledge.outcome == "swapped" for knowledge in known.values()):
        return Headline("fail", "the unlearned checkpoint knows more than the original: are the two swapped?")
    worst: dict[str, _Count] = {}
    for metric in DECIDING_METRICS:
        found = _count(metric, known.get(metric), so_far.get(metric))
        if found is not None and (found.word not in worst or found.badness > worst[found.word].badness):
            worst[found.word] = found
    if not worst:
        return None
    tone = max(worst.values(), key=lambda found: found.badness).tone
    is_whole = not any(metric in so_far and metric not in known for metric in DECIDING_METRICS)
    states = dict.fromkeys(found.state for found in worst.values())
    text = ", ".join(_sentence(state, [found for found in worst.values() if found.state == state]) for state in states)
    return Headline(tone, text if is_whole else f"{text} so far")


def _count(metric: str, knowledge: Knowledge | None, so_far: KnownSoFar | None) -> _Count | None:
    word = items_word(metric)
    if knowledge is None:
        return None if so_far is None else _Count(so_far.back, so_far.items, word, _BACK, "open")
    is_kept = knowledge.outcome == "not forgotten"
    found: ItemsBack | None = knowledge.kept if is_kept else knowledge.back
    if found is None or knowledge.outcome == "broken format":
        return None
    return _Count(found.count, found.items, word, _STILL_THERE if is_kept else _BACK, tone_of(knowledge))


def _sentence(state: str, counts: list[_Count]) -> str:
    named = " and ".join(f"{found.count} of {found.items} {found.word}" for found in counts)
    return f"{named} {'is' if [found.count for found in counts] == [1] else 'are'} {state}"
