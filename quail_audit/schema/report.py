"""Define report.json of an audit, a training and a cure.

runs/state folds a run's events into it.
"""

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import model_validator

from quail_audit.core.errors import QuailError
from quail_audit.core.values import Name, Value
from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.events.common import CheckpointSaved, RunFailed
from quail_audit.schema.events.cures import AttributionPlanned, LayerCarried, RecipeChosen, RecipePoint, UnitMeasured
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainStep
from quail_audit.schema.figures import (
    CheckpointFacts,
    Difference,
    Execution,
    FileHash,
    Kept,
    Knowledge,
    LayerStatistics,
    OtherTensors,
    PolicyUsed,
    RuleOutcome,
    SchemeSummary,
    Score,
    Sha256,
    State,
    Verdict,
)
from quail_audit.schema.older import read_older_scheme
from quail_audit.schema.requests import AuditRequest, CureRequest, TrainRequest

SCHEMA_VERSION = 2
FULL = "full"  # the precision of an arm that is not rounded
BETWEEN_FORMATS = " / "  # joins the formats of a pair whose sides are stored in different ones
STATES_BY_RISK: tuple[State | None, ...] = ("erased", "drowned", "carried", "untouched", None)  # None: not finite


def arm_at(checkpoint: str, scheme: str) -> str:
    """Return the arm of a checkpoint as it is deployed: "unlearned/nf4"; in a pair of two formats, its own."""
    original, _, unlearned = scheme.partition(BETWEEN_FORMATS)
    return f"{checkpoint}/{unlearned or original if checkpoint == 'unlearned' else original}"


def arms_in_order(arms: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Return the arms to compare at a scheme: original, unlearned, reference, each in full precision first."""
    known = [arm for each in ("original", "unlearned") for arm in (f"{each}/{FULL}", arm_at(each, scheme))]
    found = set(arms)
    references = sorted((arm for arm in found if arm.startswith("retrain/")), key=lambda arm: arm != f"retrain/{FULL}")
    return (*(arm for arm in known if arm in found), *references)


def badness(layer: LayerStatistics) -> tuple[int, float, float]:
    """Return the key that sorts the worst layer first: by state, least survival, most overlap."""
    survival = 1.0 if layer.survival is None else layer.survival
    return STATES_BY_RISK.index(layer.state), survival, -(layer.overlap or 0.0)


class ArmReport(Value):
    execution: Execution
    device: str
    dtype: str
    reason: str
    elapsed_s: float | None = None


class Failure(Value):
    kind: str
    message: str
    where: str
    mend: str

    @classmethod
    def of(cls, failed: QuailError | RunFailed | SchemeFailed) -> Self:
        """Return the part of an error, or of a failure's event, that reports keep."""
        return cls(kind=failed.kind, message=failed.message, where=failed.where, mend=failed.mend)


class SchemeReport(Value):
    summary: SchemeSummary | None
    layers: tuple[LayerStatistics, ...]
    metrics: dict[Name, dict[Name, Score]]  # metric -> arm -> score
    knowledge: dict[Name, Knowledge] = {}  # forget metric, or one of membership -> what is known
    utility: dict[Name, Kept] = {}  # retain metric -> what is kept
    verdict: Verdict | None = None  # null: not measured, or the run ended before
    failure: Failure | None = None  # why it could not be measured; earlier figures are kept

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, document: Any) -> Any:
        return read_older_scheme(document)


class Report(Value):
    """report.json. Fields are only ever added within a schema version.

    Attributes:
        items: metric -> arm -> the items' scores, in the order of the data file, which the verdict rests on. Empty in
            reports of schema version 1 and of weights alone.
        population: metric -> how many items the forget set has in all, if the data or the request says so.
    """

    schema_version: Literal[1, 2] = 2
    quail_version: str
    run_id: str
    started: str
    finished: str | None
    exit_code: int | None
    request: AuditRequest
    environment: dict[str, str]
    checkpoints: dict[str, CheckpointFacts]
    left_in_full_precision: tuple[str, ...]
    samples: dict[Name, int]
    skipped: dict[Name, str]
    arms: dict[Name, ArmReport]
    notes: tuple[str, ...]
    verdict: Verdict | None  # null: the run ended before
    failure: Failure | None
    schemes: dict[Name, SchemeReport]
    policy: PolicyUsed | None = None  # null, and no rules: written by an older Quail
    rules: tuple[RuleOutcome, ...] = ()
    files: tuple[FileHash, ...] = ()  # what was read; empty if the run ended before all was hashed
    differences: tuple[Difference, ...] = ()  # beside the weights, those that decide first; older runs name none
    other_tensors: OtherTensors | None = None  # null: the run ended before, or an older Quail wrote it
    items: dict[Name, dict[Name, tuple[float, ...]]] = {}
    population: dict[Name, int] = {}
    digest: Sha256 | None = None  # of all the rest; see runs/digest.py


class MakingReport(Value):
    """Base of the reports of runs that make a checkpoint. Fields are only ever added within a schema version."""

    schema_version: Literal[1] = 1
    kind: str
    quail_version: str
    run_id: str
    started: str
    finished: str | None
    exit_code: int | None
    request: Value
    command: tuple[str, ...]
    environment: dict[str, str]


class TrainingReport(MakingReport):
    """report.json of a training.

    Attributes:
        first_step, last_step: the first and the last step made; null if there is none.
    """

    kind: Literal["training"] = "training"
    request: TrainRequest
    plan: TrainingPlanned | None
    first_step: TrainStep | None
    last_step: TrainStep | None
    evals: tuple[TrainEval, ...]
    saved: tuple[CheckpointSaved, ...]
    notes: tuple[str, ...]
    failure: Failure | None


class CureReport(MakingReport):
    """report.json of a cure."""

    kind: Literal["cure"] = "cure"
    request: CureRequest
    carried: tuple[LayerCarried, ...] = ()
    attributed: AttributionPlanned | None = None
    units: tuple[UnitMeasured, ...] = ()
    points: tuple[RecipePoint, ...] = ()
    chosen: RecipeChosen | None = None
    saved: tuple[CheckpointSaved, ...]
    notes: tuple[str, ...]
    failure: Failure | None
