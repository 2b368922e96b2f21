"""Fold a training's events into what is known so far, and into its report."""

from dataclasses import dataclass, field

from quail_audit.runs.state.making import MakingState
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted, TrainStep
from quail_audit.schema.report import TrainingReport


@dataclass
class TrainingState(MakingState):
    """Everything that a training's events have said so far. Apply them in order.

    Attributes:
        steps: all of them, for plots of their terms.
        evals: scores of the model in training, in order.
    """

    started: TrainingStarted | None = None
    plan: TrainingPlanned | None = None
    steps: list[TrainStep] = field(default_factory=list)
    evals: list[TrainEval] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        match event:
            case TrainingStarted():
                self.started = event
            case TrainingPlanned():
                self.plan = event
            case TrainStep():
                self.steps.append(event)
            case TrainEval():
                self.evals.append(event)
        super().apply(event)

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the pace of the steps so far; None if unknown, and at the end."""
        if len(self.steps) < 2 or self.end is not None:
            return None
        first, last = self.steps[0], self.steps[-1]
        if last.step == first.step:
            return None
        return (last.at_s - first.at_s) / (last.step - first.step) * (last.total - last.step)

    def report(self) -> TrainingReport:
        """Return the report of what is known so far. Raises ValueError before the first event."""
        return TrainingReport(
            plan=self.plan,
            first_step=self.steps[0] if self.steps else None,
            last_step=self.steps[-1] if self.steps else None,
            evals=tuple(self.evals),
            **self.shared_fields(),
        )
