"""Fold a cure's events into what is known so far, and into its report."""

from dataclasses import dataclass, field

from quail_audit.runs.state.making import MakingState
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
from quail_audit.schema.report import CureReport


@dataclass
class CureState(MakingState):
    """Everything that a cure's events have said so far. Apply them in order."""

    started: CureStarted | None = None
    plan: CarryPlanned | None = None
    carried: list[LayerCarried] = field(default_factory=list)
    attributed: AttributionPlanned | None = None
    units: list[UnitMeasured] = field(default_factory=list)
    points: list[RecipePoint] = field(default_factory=list)
    chosen: RecipeChosen | None = None

    def apply(self, event: Event) -> None:
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
        super().apply(event)

    def report(self) -> CureReport:
        """Return the report of what is known so far. Raises ValueError before the first event."""
        return CureReport(
            carried=tuple(self.carried),
            attributed=self.attributed,
            units=tuple(self.units),
            points=tuple(self.points),
            chosen=self.chosen,
            **self.shared_fields(),
        )
