"""Define the events that runs of every kind have."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

import quail_audit
from quail_audit.core.clock import utc_now
from quail_audit.core.machine import describe_environment
from quail_audit.core.values import Value


class Timed(Value):
    """Base of every event: when it happened, in seconds since the run started. Set by runs.record."""

    at_s: Annotated[float, Field(ge=0.0)] = 0.0


class Started(Timed):
    """Base of a run's first event: what was asked for, and what it runs on."""

    type: str
    schema_version: int = 1
    quail_version: str
    run_id: str
    started: str  # ISO 8601, UTC
    request: Value

    @classmethod
    def of(cls, request: Value, run_id: str, *, started: str | None = None, **more: Any) -> Self:
        """Return the first event of a run on this machine.

        Args:
            request: what was asked for.
            run_id: the run's.
            started: start time of the run being resumed (ISO 8601, UTC); None for a new run.
            more: other fields of the event.
        """
        return cls.model_validate(
            {
                "quail_version": quail_audit.__version__,
                "run_id": run_id,
                "started": started or utc_now(),
                "request": request,
                "environment": describe_environment(),
                **more,
            }
        )


class Noted(Timed):
    """A note for the reader of the report; not an error."""

    type: Literal["noted"] = "noted"
    message: str


class RunFinished(Timed):
    type: Literal["run_finished"] = "run_finished"
    finished: str
    exit_code: int


class RunFailed(Timed):
    """The run ended without a verdict. Earlier figures stand."""

    type: Literal["run_failed"] = "run_failed"
    finished: str
    kind: str
    message: str
    where: str = ""
    mend: str = ""
    exit_code: int


class CheckpointSaved(Timed):
    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int = 0  # of a training
    folder: str
    final: bool = False  # True: the result itself; False: one to resume from
