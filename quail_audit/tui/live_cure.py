"""A cure as the app holds it: what its events have said so far, and how it stands. Shows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quail_audit.curing import CureState
from quail_audit.events import CheckpointSaved, CureRequest, RunFinished
from quail_audit.runs import Placed
from quail_audit.tui.child import Child
from quail_audit.tui.followed import Followed

Stage = Literal["starting", "running", "finished", "stopped"]


class LiveCure(Followed):
    """A carry, an attribution or a recipe that is followed.

    Args:
        folder: the run's.
        name: carry, attribute or recipe.
        command: as it is typed, without where the run goes; empty where its first event is to tell.
        child: the process that works on it, where the app started it.
    """

    def __init__(self, folder: Path, name: str, command: tuple[str, ...] = (), child: Child | None = None) -> None:
        self.state: CureState = CureState()
        self.name = name
        self._command = command
        super().__init__(folder, child)

    def _apply(self, placed: Placed) -> None:
        self.state.apply(placed.event)

    @property
    def command(self) -> tuple[str, ...]:
        """As it is typed, as far as that is known."""
        if self._command or self.state.started is None:
            return self._command or ("quail", self.name)
        return self.state.started.command

    @property
    def request(self) -> CureRequest | None:
        """What was asked for; None until the first event has come."""
        return None if self.state.started is None else self.state.started.request

    @property
    def stage(self) -> Stage:
        """How it stands. "finished" only where the process itself said that all went well."""
        end = self.state.end
        if isinstance(end, RunFinished) and end.exit_code == 0:
            return "finished"
        if end is not None or self.is_over:
            return "stopped"
        return "running" if self.state.started is not None else "starting"

    @property
    def result(self) -> CheckpointSaved | None:
        """The checkpoint it made; None while there is none, or where it makes none."""
        return next((saved for saved in self.state.saved if saved.final), None)
