"""Follow an audit, a training or a cure by the events that its process writes.

run.py, training.py and cure.py say what the events mean.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quail_audit.runs.follow import PlacedEvent
from quail_audit.schema.events.common import CheckpointSaved, RunFinished
from quail_audit.tui.live.child import Child
from quail_audit.tui.live.feed import Feed

if TYPE_CHECKING:
    from quail_audit.runs.state.audit import AuditState
    from quail_audit.runs.state.cure import CureState
    from quail_audit.runs.state.training import TrainingState


class Followed(ABC):
    """A run that is followed, from its first event to its last.

    Args:
        folder: the run's.
        child: the process that writes it, if the app started it; None for a run that is only watched.

    Attributes:
        state: the fold of the events taken in so far.
        changes: the number of events taken in; a screen that has seen this many is up to date.
    """

    state: AuditState | TrainingState | CureState

    def __init__(self, folder: Path, child: Child | None = None) -> None:
        self.folder = folder
        self.child = child
        self.changes = 0
        self._last_s = time.monotonic()
        self._feed = Feed(folder, is_awaited=lambda: child is not None and child.exit_code is None)

    def advance(self, budget_s: float) -> None:
        """Take in new events, for about so many seconds."""
        for placed in self._feed.take(budget_s):
            self._apply(placed)
            self.changes += 1
            self._last_s = time.monotonic()

    @abstractmethod
    def _apply(self, placed: PlacedEvent) -> None:
        """Take in one event."""

    @property
    def is_over(self) -> bool:
        """True if nothing more will come."""
        return self._feed.has_ended

    @property
    def idle_s(self) -> float:
        """Seconds since the last event, while more may come."""
        return 0.0 if self.is_over else time.monotonic() - self._last_s

    @property
    def is_running_here(self) -> bool:
        """True if a process of this app is still writing it."""
        return self.child is not None and self.child.exit_code is None

    @property
    def folder_from_here(self) -> str:
        """The folder, relative to the working folder if it is inside."""
        here = Path.cwd()
        return str(self.folder.relative_to(here) if self.folder.is_relative_to(here) else self.folder)

    @property
    def problem(self) -> str | None:
        """Why the run could not be followed to its end; None if it could."""
        return None if self._feed.problem is None else str(self._feed.problem)

    def close(self) -> None:
        """Stop following, and end the process if the app started it."""
        self._feed.close()
        if self.child is not None:
            self.child.close()


class Making(Followed):
    """A run that makes something rather than measuring it: a training or a cure."""

    state: TrainingState | CureState

    @property
    @abstractmethod
    def stage(self) -> str:
        """The stage of the run."""

    def _apply(self, placed: PlacedEvent) -> None:
        self.state.apply(placed.event)

    @property
    def ending(self) -> Literal["finished", "stopped"] | None:
        """The way it ended; None if it has not. "finished" only if the process itself reported success."""
        end = self.state.end
        if isinstance(end, RunFinished) and end.exit_code == 0:
            return "finished"
        return "stopped" if end is not None or self.is_over else None

    @property
    def result(self) -> CheckpointSaved | None:
        """The checkpoint it was run for; None while there is none, or if it makes none."""
        return next((saved for saved in reversed(self.state.saved) if saved.final), None)
