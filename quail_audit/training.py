"""What a training run has said so far: the fold of its events, which every face reads.

Not here: the training itself (quail_train), and the fold of an audit's events (report.py).
"""

from dataclasses import dataclass, field

from quail_audit.events import (
    CheckpointSaved,
    Event,
    Noted,
    RunFailed,
    RunFinished,
    TrainEval,
    TrainingPlanned,
    TrainingStarted,
    TrainStep,
)


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
