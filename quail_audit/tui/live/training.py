"""Hold a training that the app follows: its state so far, and its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.requests import TrainRequest
from quail_audit.tui.live.child import Child
from quail_audit.tui.live.followed import Making

TrainingStage = Literal["starting", "training", "stopping", "finished", "stopped"]


class LiveTraining(Making):
    """A training that is followed.

    Args:
        folder: the run's.
        request: what was asked for.
        child: its process, if the app started it.
    """

    def __init__(self, folder: Path, request: TrainRequest, child: Child | None = None) -> None:
        self.state: TrainingState = TrainingState()
        self.request = request
        self.stop_asked = False
        super().__init__(folder, child)

    def stop(self) -> None:
        """Ask it to end after this step, with a checkpoint; if asked again, at once."""
        if self.child is not None:
            self.stop_asked = True
            self.child.interrupt()

    @property
    def stage(self) -> TrainingStage:
        """The stage of the training."""
        if self.ending is not None:
            return self.ending
        if self.stop_asked:
            return "stopping"
        return "training" if self.state.steps else "starting"
