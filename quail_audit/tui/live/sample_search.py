"""Search the texts of samples in a run's folder; a thread runs this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from quail_audit.tui.live.run import AnswersOf, LiveRun

SAMPLES_AT_ONCE = 50  # between two reports, where the search may stop


@dataclass(frozen=True)
class Searched:
    """The progress of a search.

    Attributes:
        samples: how many have been looked at.
        found: numbers of those that have the text, of the ones looked at since the last report.
    """

    samples: int
    found: tuple[int, ...]


def search(run: LiveRun, samples: Iterable[AnswersOf], text: str) -> Iterator[Searched]:
    """Search the prompt, truth and every answer of these samples, whatever the case.

    Reports after every few samples. Stop by not asking for the next report.

    Raises:
        BadInputError: the run's folder can no longer be read.
    """
    wanted = text.casefold()
    rest = iter(samples)
    done = 0
    while batch := list(islice(rest, SAMPLES_AT_ONCE)):
        done += len(batch)
        yield Searched(done, tuple(one.number for one in batch if _has_text(run, one, wanted)))


def _has_text(run: LiveRun, answers: AnswersOf, wanted: str) -> bool:
    for place, event in enumerate(run.texts(answers).values()):
        # prompt and truth are the same on every arm
        texts = (event.answer,) if place else (event.answer, event.prompt, event.truth)
        if any(wanted in text.casefold() for text in texts):
            return True
    return False
