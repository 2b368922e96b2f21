"""What the run of a cure has said so far: the fold of its events, which every face reads.

Not here: the cures themselves (quail_train, cures), and the folds of other runs (report.py,
training.py).
"""

from dataclasses import dataclass, field

from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFailed, RunFinished
from quail_audit.schema.events.cures import (
    AttributionPlanned,
    CarryPlanned,
    CureStarted,
    LayerCarried,
    RecipeChosen,
    RecipePoint,
    UnitMeasured,
)
from quail_audit.schema.events.lines import Event
from quail_audit.schema.report import CureReport, Failure


@dataclass
class CureState:
    """Everything the events of the run of a cure have said so far. Apply them in order."""

    started: CureStarted | None = None
    plan: CarryPlanned | None = None
    carried: list[LayerCarried] = field(default_factory=list)
    attributed: AttributionPlanned | None = None
    units: list[UnitMeasured] = field(default_factory=list)
    points: list[RecipePoint] = field(default_factory=list)
    chosen: RecipeChosen | None = None
    saved: list[CheckpointSaved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: RunFinished | RunFailed | None = None
    at_s: float = 0.0

    def apply(self, event: Event) -> None:
        """Take in the next event; those of other runs are passed over."""
        self.at_s = max(self.at_s, event.at_s)
        match event:
            case CureStarted():
                self.started = event
            case CarryPlanned():
                self.plan = event
            case LayerCarried():
                self.carried.append(event)
            case AttributionPlanned():
                self.attributed = event
            case UnitMeasured():
                self.units.append(event)
            case RecipePoint():
                self.points.append(event)
            case RecipeChosen():
                self.chosen = event
            case CheckpointSaved():
                self.saved.append(event)
            case Noted():
                self.notes.append(event.message)
            case RunFinished() | RunFailed():
                self.end = event

    def report(self) -> CureReport:
        """The report of what is known so far.

        Raises:
            ValueError: no CureStarted has been applied.
        """
        if self.started is None:
            raise ValueError("a run's first event says what was asked for; it is missing")
        return CureReport(
            quail_version=self.started.quail_version,
            run_id=self.started.run_id,
            started=self.started.started,
            finished=self.end.finished if self.end else None,
            exit_code=self.end.exit_code if self.end else None,
            request=self.started.request,
            command=self.started.command,
            environment=self.started.environment,
            carried=tuple(self.carried),
            attributed=self.attributed,
            units=tuple(self.units),
            points=tuple(self.points),
            chosen=self.chosen,
            saved=tuple(self.saved),
            notes=tuple(self.notes),
            failure=Failure(kind=self.end.kind, message=self.end.message, where=self.end.where, mend=self.end.mend)
            if isinstance(self.end, RunFailed)
            else None,
        )
