"""Fold the events that every run that makes a checkpoint has: a training, a cure."""

from dataclasses import dataclass, field
from typing import Any

from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFailed, RunFinished
from quail_audit.schema.events.cures import CureStarted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainingStarted
from quail_audit.schema.report import Failure


@dataclass
class MakingState:
    """Base of the folds of a training and a cure. Apply their events in order.

    Attributes:
        saved: checkpoints written, in order; the last is the result if it is final.
    """

    started: TrainingStarted | CureStarted | None = None
    saved: list[CheckpointSaved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: RunFinished | RunFailed | None = None
    at_s: float = 0.0

    def apply(self, event: Event) -> None:
        """Take in the next event. Events of other kinds of run are ignored."""
        self.at_s = max(self.at_s, event.at_s)
        match event:
            case CheckpointSaved():
                self.saved.append(event)
            case Noted():
                self.notes.append(event.message)
            case RunFinished() | RunFailed():
                self.end = event

    def shared_fields(self) -> dict[str, Any]:
        """Return the fields that the reports of both have.

        Raises:
            ValueError: the run's first event is missing.
        """
        if self.started is None:
            raise ValueError("the run's first event is missing, which holds its request")
        return {
            "quail_version": self.started.quail_version,
            "run_id": self.started.run_id,
            "started": self.started.started,
            "finished": self.end.finished if self.end else None,
            "exit_code": self.end.exit_code if self.end else None,
            "request": self.started.request,
            "command": self.started.command,
            "environment": self.started.environment,
            "saved": tuple(self.saved),
            "notes": tuple(self.notes),
            "failure": Failure.of(self.end) if isinstance(self.end, RunFailed) else None,
        }
