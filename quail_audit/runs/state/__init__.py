"""What the events of a run come to so far: one fold for each kind of run."""

from quail_audit.runs.state.audit import AuditState
from quail_audit.runs.state.cure import CureState
from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.cures import CureStarted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainingStarted

AnyState = AuditState | TrainingState | CureState  # the fold of a run of some kind


def state_for(event: Event, state: AnyState) -> AnyState:
    """The fold that takes this event: a run's first event tells what kind of run it is."""
    match event:
        case TrainingStarted():
            return TrainingState()
        case CureStarted():
            return CureState()
    return state
