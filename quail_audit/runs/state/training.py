"""What a training run has said so far: the fold of its events, which every face reads.

Not here: the training itself (quail_train), and the fold of an audit's events (report.py).
"""

from dataclasses import dataclass, field

from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFailed, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted, TrainStep
from quail_audit.schema.report import Failure, TrainingReport


@dataclass
class TrainingState:
    """Everything the events of a training have said so far. Apply them in order.

    Attributes:
        steps: all of them, for plots of their terms.
        evals: scores of the model in training, in order.
        saved: checkpoints written, in order; the last is the result where it is final.
    """

    started: TrainingStarted | None = None
    plan: TrainingPlanned | None = None
    steps: list[TrainStep] = field(default_factory=list)
    evals: list[TrainEval] = field(default_factory=list)
    saved: list[CheckpointSaved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: RunFinished | RunFailed | None = None
    at_s: float = 0.0

    def apply(self, event: Event) -> None:
        """Take in the next event; those of an audit are passed over."""
        self.at_s = max(self.at_s, event.at_s)
        match event:
            case TrainingStarted():
                self.started = event
            case TrainingPlanned():
                self.plan = event
            case TrainStep():
                self.steps.append(event)
            case TrainEval():
                self.evals.append(event)
            case CheckpointSaved():
                self.saved.append(event)
            case Noted():
                self.notes.append(event.message)
            case RunFinished() | RunFailed():
                self.end = event

    @property
    def remaining_s(self) -> float | None:
        """Seconds still to go at the pace of the steps so far; None while it cannot be told, and at the end."""
        if len(self.steps) < 2 or self.end is not None:
            return None
        first, last = self.steps[0], self.steps[-1]
        if last.step == first.step:
            return None
        return (last.at_s - first.at_s) / (last.step - first.step) * (last.total - last.step)

    def report(self) -> TrainingReport:
        """The report of what is known so far.

        Raises:
            ValueError: no TrainingStarted has been applied.
        """
        if self.started is None:
            raise ValueError("a run's first event says what was asked for; it is missing")
        return TrainingReport(
            quail_version=self.started.quail_version,
            run_id=self.started.run_id,
            started=self.started.started,
            finished=self.end.finished if self.end else None,
            exit_code=self.end.exit_code if self.end else None,
            request=self.started.request,
            command=self.started.command,
            environment=self.started.environment,
            plan=self.plan,
            first_step=self.steps[0] if self.steps else None,
            last_step=self.steps[-1] if self.steps else None,
            evals=tuple(self.evals),
            saved=tuple(self.saved),
            notes=tuple(self.notes),
            failure=Failure(kind=self.end.kind, message=self.end.message, where=self.end.where, mend=self.end.mend)
            if isinstance(self.end, RunFailed)
            else None,
        )
