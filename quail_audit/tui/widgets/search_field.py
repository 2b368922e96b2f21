"""Take a text to search samples for, and search them in a thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from textual.message import Message
from textual.widgets import Input
from textual.worker import get_current_worker

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.tui.live.run import AnswersOf, LiveRun
from quail_audit.tui.live.sample_search import Searched, search


@dataclass
class Search:
    """A search, as far as it has come.

    Attributes:
        text: what is looked for.
        total: samples there were when it began.
        done: how many of them have been looked at.
        is_over: it came to its end, was stopped or failed.
    """

    text: str
    total: int
    done: int = 0
    is_over: bool = False

    def status_text(self, found: int) -> str:
        """Say how many samples were found, and which keys go on from there."""
        text = printable(self.text, limit=24)
        if self.is_over:
            return f"“{text}”: {found} found{'  n next  p previous' if found else ''}  esc clears"
        return f"“{text}”: {found} found in {self.done} of {self.total}  esc stops"


class SearchField(Input):
    """The field; hidden while nothing is typed.

    Attributes:
        search: that is going on or has ended; None after clear_search().
    """

    class Found(Message):
        """The search has looked at more samples."""

        def __init__(self, search: Search, searched: Searched) -> None:
            self.search = search
            self.searched = searched
            super().__init__()

    class Ended(Message):
        """The search has ended."""

        def __init__(self, search: Search, problem: QuailError | None = None) -> None:
            self.search = search
            self.problem = problem
            super().__init__()

    search: Search | None = None

    def on_mount(self) -> None:
        self.display = False

    def open(self) -> None:
        """Show the field, to type in."""
        self.display = True
        self.focus()

    def start(self, text: str, run: LiveRun, samples: Iterable[AnswersOf], total: int) -> None:
        """Search these samples of a run, total in number; post Found after every few, and Ended at last."""
        self.search = Search(text, total)
        work = partial(self._search_in_thread, self.search, run, samples)
        self.run_worker(work, group="search", exclusive=True, thread=True, exit_on_error=False)

    def clear_search(self) -> None:
        """Stop the search and forget it."""
        self.workers.cancel_group(self, "search")
        self.search = None

    def _search_in_thread(self, which: Search, run: LiveRun, samples: Iterable[AnswersOf]) -> None:
        worker = get_current_worker()
        try:
            for searched in search(run, samples, which.text):
                if worker.is_cancelled:
                    return
                self.post_message(self.Found(which, searched))
        except QuailError as error:
            self.post_message(self.Ended(which, error))
            return
        self.post_message(self.Ended(which))

    def on_unmount(self) -> None:
        self.workers.cancel_group(self, "search")
