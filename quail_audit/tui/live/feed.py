"""Follow a run's events in a thread, so that reading and parsing never hold up a key.

The app takes events with take(), a little at a time. Their number is bounded: a run that is faster than the screen
waits for it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from quail_audit.core.errors import QuailError
from quail_audit.runs.folder import summarize_run
from quail_audit.runs.follow import POLL_INTERVAL_S, PlacedEvent, replay_placed
from quail_audit.runs.names import EVENTS
from quail_audit.runs.writer import Writer

EVENTS_WAITING = 20_000
EVENTS_BETWEEN_CLOCKS = 16


class Feed:
    """The events of one run, from the first to the last that its writer writes.

    Args:
        folder: the run's.
        is_awaited: returns whether a run that has not begun, or not resumed, still may: its process lives.
    """

    def __init__(self, folder: Path, is_awaited: Callable[[], bool] = lambda: False) -> None:
        self.folder = folder
        self.problem: QuailError | None = None  # why reading ended before the run did
        self._is_awaited = is_awaited
        self._waiting: deque[PlacedEvent] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"feed {folder.name}", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True if everything has been taken and nothing more will come."""
        return not self._thread.is_alive() and not self._waiting

    def take(self, budget_s: float) -> Iterator[PlacedEvent]:
        """Yield what has come, until there is no more or so many seconds are over, the caller's work included."""
        deadline_s = time.monotonic() + budget_s
        for taken in itertools.count(1):
            try:
                yield self._waiting.popleft()
            except IndexError:
                return
            if taken % EVENTS_BETWEEN_CLOCKS == 0 and time.monotonic() > deadline_s:
                return

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()

    def _read(self) -> None:
        try:
            writer = Writer(self.folder)
            while self._is_awaited() and not self._has_begun(writer):
                if self._stopped.wait(POLL_INTERVAL_S):
                    return
            with closing(replay_placed(self.folder, follow=True, wait=self._stopped.wait)) as events:
                for placed in events:
                    self._waiting.append(placed)
                    while len(self._waiting) >= EVENTS_WAITING and not self._stopped.wait(POLL_INTERVAL_S / 10):
                        pass
                    if self._stopped.is_set():
                        return
        except QuailError as error:
            self.problem = error

    def _has_begun(self, writer: Writer) -> bool:
        """Return whether there is something to follow; for a resumed audit, something new."""
        if not (self.folder / EVENTS).is_file():
            return False
        if writer.is_alive():
            return True
        summary = summarize_run(self.folder)
        return summary is None or summary.exit_code is not None
