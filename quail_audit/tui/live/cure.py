"""Hold a cure that the app follows: its state so far, and its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quail_audit.runs.state.cure import CureState
from quail_audit.schema.requests import CureRequest
from quail_audit.tui.live.child import Child
from quail_audit.tui.live.followed import Making

CureStage = Literal["starting", "running", "finished", "stopped"]


class LiveCure(Making):
    """A carry, an attribution or a recipe that is followed.

    Args:
        folder: the run's.
        name: carry, attribute or recipe.
        command: as it is typed, without the run's folder; empty if its first event has to tell.
        child: its process, if the app started it.
    """

    def __init__(self, folder: Path, name: str, command: tuple[str, ...] = (), child: Child | None = None) -> None:
        self.state: CureState = CureState()
        self.name = name
        self._command = command
        super().__init__(folder, child)

    @property
    def command(self) -> tuple[str, ...]:
        """The command as it is typed, as far as it is known."""
        if self._command or self.state.started is None:
            return self._command or ("quail", self.name)
        return self.state.started.command

    @property
    def request(self) -> CureRequest | None:
        """The request; None until the first event has come."""
        return None if self.state.started is None else self.state.started.request

    @property
    def stage(self) -> CureStage:
        """The stage of the cure."""
        return self.ending or ("running" if self.state.started is not None else "starting")
