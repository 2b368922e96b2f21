"""Write and read events as JSON lines; define the union of all events.

Events cross processes, so they hold plain values: no tensors, no paths that only one process can open. A
run's events.jsonl is a list of them, and its report is a fold over them (runs/state).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.core.values import first_problem
from quail_audit.schema.events.audit import (
    ArmFinished,
    ArmStarted,
    DataRead,
    FilesAwaited,
    FilesFound,
    FilesHashed,
    KnowledgeMeasured,
    LayerMeasured,
    LayerQuantized,
    MetricScored,
    OtherTensorsRead,
    PairOpened,
    Planned,
    PolicyRead,
    RecoveryMeasured,
    RunStarted,
    SampleScored,
    SchemeFailed,
    UtilityMeasured,
    VerdictReached,
    WeightsMeasured,
)
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
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted, TrainStep

Event = (
    CureStarted
    | AttributionPlanned
    | UnitMeasured
    | RecipePoint
    | RecipeChosen
    | CarryPlanned
    | LayerCarried
    | TrainingStarted
    | TrainingPlanned
    | TrainStep
    | TrainEval
    | CheckpointSaved
    | RunStarted
    | PolicyRead
    | PairOpened
    | DataRead
    | Planned
    | FilesFound
    | FilesAwaited
    | FilesHashed
    | LayerMeasured
    | LayerQuantized
    | WeightsMeasured
    | OtherTensorsRead
    | ArmStarted
    | SampleScored
    | MetricScored
    | ArmFinished
    | KnowledgeMeasured
    | UtilityMeasured
    | RecoveryMeasured
    | Noted
    | SchemeFailed
    | VerdictReached
    | RunFinished
    | RunFailed
)

_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def to_line(event: Event) -> str:
    """Return an event as one line of JSON, without the newline. Control characters are escaped."""
    return event.model_dump_json()


def from_line(line: str) -> Event:
    """Read one line of an events.jsonl.

    Raises:
        BadInputError: the line is no event of this version.
    """
    try:
        return _adapter.validate_json(line)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise BadInputError(
            f"not an event of a Quail run: {problem}" + (f" at {place}" if place else ""),
            mend="The file was truncated, edited, or written by another version of Quail",
        ) from error


Events = Generator[Event, None, None]
