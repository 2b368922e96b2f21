"""Fold a run's events into what is known so far: one fold a kind of run."""

from quail_audit.runs.state.audit import AuditState
from quail_audit.runs.state.cure import CureState
from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.cures import CureStarted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainingStarted

AnyState = AuditState | TrainingState | CureState  # the fold of a run of some kind


def state_for(event: Event, state: AnyState) -> AnyState:
    """Return the fold for this event; a run's first event tells its kind."""
    match event:
        case TrainingStarted():
            return TrainingState()
        case CureStarted():
            return CureState()
    return state
