"""Events that runs of every kind have."""

from typing import Annotated, Literal

from pydantic import Field

from quail_audit.core.values import Value


class Timed(Value):
    """What every event has: when it happened, in seconds since the run started. Set by runs.record."""

    at_s: Annotated[float, Field(ge=0.0)] = 0.0


class Noted(Timed):
    """Something the reader of the report should know that is no error."""

    type: Literal["noted"] = "noted"
    message: str


class RunFinished(Timed):
    type: Literal["run_finished"] = "run_finished"
    finished: str
    exit_code: int


class RunFailed(Timed):
    """The run ended without a verdict; what was measured before stands."""

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
    final: bool = False  # the result itself; else one to resume from
