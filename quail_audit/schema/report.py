"""What a run found, as report.json holds it, and the fold of a run's events that makes it.

RunState is the fold: the live view and the report both read it, so what a reader sees while a run goes on is what the
report says at its end. Not here: any output format (reports/).
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from quail_audit.core.values import Name
from quail_audit.schema.events.lines import (
    ArmFinished,
    ArmStarted,
    AuditRequest,
    CheckpointFacts,
    DataRead,
    Event,
    Execution,
    FileHash,
    FilesAwaited,
    FilesHashed,
    LayerMeasured,
    LayerQuantized,
    LayerStatistics,
    MetricScored,
    Model,
    Noted,
    PairOpened,
    Planned,
    PolicyRead,
    PolicyUsed,
    Recovery,
    RecoveryMeasured,
    RuleOutcome,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleScored,
    SchemeFailed,
    SchemeSummary,
    Score,
    Sha256,
    State,
    Verdict,
    VerdictReached,
    WeightsMeasured,
)

SCHEMA_VERSION = 1
FULL = "full"  # the precision of an arm that is not rounded
BETWEEN_FORMATS = " / "  # in the name of a pair whose sides are stored in different formats: original's, unlearned's


STATES_BY_RISK: tuple[State | None, ...] = ("erased", "drowned", "carried", "untouched", None)  # None: not finite


def arm_at(checkpoint: str, scheme: str) -> str:
    """The arm of a checkpoint as it is deployed: "unlearned/nf4"; of a pair in two formats, the checkpoint's own."""
    original, _, unlearned = scheme.partition(BETWEEN_FORMATS)
    return f"{checkpoint}/{unlearned or original if checkpoint == 'unlearned' else original}"


def arms_in_order(arms: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Those of the arms that a reader compares at a scheme: original, unlearned, reference, each in full first."""
    known = [arm for each in ("original", "unlearned") for arm in (f"{each}/{FULL}", arm_at(each, scheme))]
    found = set(arms)
    references = sorted((arm for arm in found if arm.startswith("retrain/")), key=lambda arm: arm != f"retrain/{FULL}")
    return (*(arm for arm in known if arm in found), *references)


def badness(layer: LayerStatistics) -> tuple[int, float, float]:
    """Sorts the worst layer first: by state, then the least survival, then the most overlap."""
    survival = 1.0 if layer.survival is None else layer.survival
    return STATES_BY_RISK.index(layer.state), survival, -(layer.overlap or 0.0)


class ArmReport(Model):
    execution: Execution
    device: str
    dtype: str
    reason: str
    elapsed_s: float | None = None


class Failure(Model):
    kind: str
    message: str
    where: str
    mend: str


class SchemeReport(Model):
    summary: SchemeSummary | None
    layers: tuple[LayerStatistics, ...]
    metrics: dict[Name, dict[Name, Score]]  # metric -> arm -> score
    recovery: dict[Name, Recovery]  # metric -> recovery
    verdict: Verdict | None = None  # null: it could not be measured, or the run did not get that far
    failure: Failure | None = None  # why it could not be measured; what was measured before stands


class Report(Model):
    """report.json. Fields are only ever added within a schema version."""

    schema_version: Literal[1] = 1
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
    verdict: Verdict | None  # null: the run did not get that far
    failure: Failure | None
    schemes: dict[Name, SchemeReport]
    policy: PolicyUsed | None = None  # null, and no rules: written by Quail before 0.2
    rules: tuple[RuleOutcome, ...] = ()
    files: tuple[FileHash, ...] = ()  # what was read; empty of a run that was stopped before all was hashed
    digest: Sha256 | None = None  # of all the rest; see seal.py


@dataclass
class Progress:
    """Samples of one metric on one arm, while they are being scored: their count, mean and squared deviations.

    Added up as Welford (1962) does, so that scores far from zero lose nothing.
    """

    samples: int = 0
    mean: float = 0.0
    deviations: float = 0.0  # sum of (score - mean)^2

    def add(self, score: float) -> None:
        self.samples += 1
        difference = score - self.mean
        self.mean += difference / self.samples
        self.deviations += difference * (score - self.mean)

    @property
    def half_width(self) -> float | None:
        """Of the normal 95 % interval of the mean, until the bootstrap's is there; None for a single sample."""
        if self.samples < 2:
            return None
        return 1.96 * math.sqrt(self.deviations / (self.samples - 1) / self.samples)


@dataclass(frozen=True)
class Quantizing:
    """How far a backend is with one checkpoint.

    Attributes:
        index: of the layer at hand, from 1.
        total: how many there are.
        started_s: when the first was at hand, in seconds since the run started.
    """

    index: int
    total: int
    started_s: float

    def remaining_s(self, at_s: float) -> float | None:
        """Seconds to go at the pace so far; None at the first layer, and at the last, which may be over."""
        done = self.index - 1
        return (at_s - self.started_s) / done * (self.total - done) if 0 < done < self.total - 1 else None


@dataclass(frozen=True)
class Awaiting:
    """How far the hashing of files is when all else is done: when it was first said, and when last."""

    first: FilesAwaited
    last: FilesAwaited

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the pace since all else was done; None until there is one."""
        done, elapsed_s = self.last.done_bytes - self.first.done_bytes, self.last.at_s - self.first.at_s
        return (self.last.total_bytes - self.last.done_bytes) / done * elapsed_s if done > 0 else None


@dataclass
class RunState:
    """Everything the events of a run have said so far. Apply them in order."""

    started: RunStarted | None = None
    policy: PolicyUsed | None = None
    pair: PairOpened | None = None
    data: DataRead | None = None
    plan: Planned | None = None
    layers: dict[str, list[LayerStatistics]] = field(default_factory=lambda: defaultdict(list))
    layers_done: int = 0
    quantizing: dict[tuple[str, str], Quantizing] = field(default_factory=dict)  # (scheme, side), in order
    summaries: dict[str, SchemeSummary] = field(default_factory=dict)
    arms: dict[str, ArmReport] = field(default_factory=dict)
    running: dict[tuple[str, str], Progress] = field(default_factory=lambda: defaultdict(Progress))
    samples_done: dict[str, int] = field(default_factory=dict)
    scores: dict[str, dict[str, Score]] = field(default_factory=lambda: defaultdict(dict))  # metric -> arm -> score
    recoveries: dict[str, dict[str, Recovery]] = field(default_factory=lambda: defaultdict(dict))
    notes: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    rules: tuple[RuleOutcome, ...] = ()
    failures: dict[str, Failure] = field(default_factory=dict)  # scheme -> why it could not be measured
    files: tuple[FileHash, ...] = ()
    awaiting: Awaiting | None = None  # files that are still being hashed, when all else is done
    end: RunFinished | RunFailed | None = None
    last_sample: SampleScored | None = None
    at_s: float = 0.0

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self.at_s = max(self.at_s, event.at_s)
        match event:
            case RunStarted():
                self.started = event
            case PolicyRead():
                self.policy = event.policy
            case PairOpened():
                self.pair = event
                self.notes.extend(event.notes)
            case DataRead():
                self.data = event
            case Planned():
                self.plan = event
            case LayerMeasured():
                self.layers[event.scheme].append(event.layer)
                self.layers_done = max(self.layers_done, event.index)
            case LayerQuantized():
                first = self.quantizing.get((event.scheme, event.side))
                started_s = first.started_s if first is not None else event.at_s
                self.quantizing[event.scheme, event.side] = Quantizing(event.index, event.total, started_s)
            case WeightsMeasured():
                self.summaries[event.scheme] = event.summary
            case ArmStarted():
                self.arms[event.arm] = ArmReport(
                    execution=event.execution, device=event.device, dtype=event.dtype, reason=event.reason
                )
                self.samples_done[event.arm] = 0
            case SampleScored():
                self.running[event.arm, event.metric].add(event.score)
                self.samples_done[event.arm] = event.done
                self.last_sample = event
            case MetricScored():
                self.scores[event.metric][event.arm] = event.score
            case ArmFinished():
                if event.arm in self.arms:
                    self.arms[event.arm] = self.arms[event.arm].model_copy(update={"elapsed_s": event.elapsed_s})
            case RecoveryMeasured():
                self.recoveries[event.scheme][event.metric] = event.recovery
            case FilesAwaited():
                self.awaiting = Awaiting(event if self.awaiting is None else self.awaiting.first, event)
            case FilesHashed():
                self.files = event.files
                self.awaiting = None
            case Noted():
                self.notes.append(event.message)
            case SchemeFailed():
                self.failures[event.scheme] = _failure(event)
            case VerdictReached():
                self.verdict = event.verdict
                self.verdicts = event.schemes
                self.rules = event.rules
            case RunFinished() | RunFailed():
                self.end = event

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the pace of the arms that are done, or of what is left then; None while none can be told."""
        if self.plan is None or self.end is not None:
            return None
        if self.awaiting is not None:
            return self.awaiting.remaining_s
        elapsed = [arm.elapsed_s for arm in self.arms.values() if arm.elapsed_s is not None]
        if not elapsed:
            return None
        unfinished = [
            arm
            for arm in self.plan.arms
            if arm.rpartition("/")[2] not in self.failures
            and (arm not in self.arms or self.arms[arm].elapsed_s is None)
        ]
        current = sum(self.samples_done.get(arm, 0) for arm in unfinished)
        part = current / self.plan.samples_per_arm if self.plan.samples_per_arm else 0.0
        return max(0.0, (len(unfinished) - part) * sum(elapsed) / len(elapsed))

    @property
    def quantizing_now(self) -> tuple[str, str, Quantizing] | None:
        """Scheme, side and how far a backend is with it; None while none is at work."""
        for (scheme, side), found in reversed(self.quantizing.items()):
            is_over = scheme in self.summaries or scheme in self.failures or self.end is not None
            return None if is_over else (scheme, side, found)
        return None

    @property
    def schemes(self) -> tuple[str, ...]:
        """What is measured: what was asked for, or as the checkpoints are stored."""
        if self.plan is not None and self.plan.stored_as is not None:
            return (self.plan.stored_as,)
        return self.started.request.schemes if self.started is not None else ()

    def report(self) -> Report:
        """The report of what is known so far.

        Raises:
            ValueError: no RunStarted has been applied.
        """
        if self.started is None:
            raise ValueError("a run's first event says what was asked for; it is missing")
        request = self.started.request
        return Report(
            quail_version=self.started.quail_version,
            run_id=self.started.run_id,
            started=self.started.started,
            finished=self.end.finished if self.end else None,
            exit_code=self.end.exit_code if self.end else None,
            request=request,
            environment=self.started.environment,
            checkpoints=self._checkpoints(),
            left_in_full_precision=self.pair.left_in_full_precision if self.pair else (),
            samples=self.data.samples if self.data else {},
            skipped=self.data.skipped if self.data else {},
            arms=self.arms,
            notes=tuple(self.notes),
            verdict=self.verdict,
            failure=_failure(self.end) if isinstance(self.end, RunFailed) else None,
            schemes={scheme: self.scheme(scheme) for scheme in self.schemes},
            policy=self.policy,
            rules=self.rules,
            files=self.files,
        )

    def _checkpoints(self) -> dict[str, CheckpointFacts]:
        if self.pair is None:
            return {}
        facts = {"original": self.pair.original, "unlearned": self.pair.unlearned, "retrain": self.pair.retrain}
        return {name: fact for name, fact in facts.items() if fact is not None}

    def scheme(self, scheme: str) -> SchemeReport:
        """What is known so far of one scheme."""

        metrics = {m: {arm: arms[arm] for arm in arms_in_order(arms, scheme)} for m, arms in self.scores.items()}
        return SchemeReport(
            summary=self.summaries.get(scheme),
            layers=tuple(self.layers[scheme]) if scheme in self.layers else (),
            metrics={metric: arms for metric, arms in metrics.items() if arms},
            recovery=dict(self.recoveries[scheme]) if scheme in self.recoveries else {},
            verdict=self.verdicts.get(scheme),
            failure=self.failures.get(scheme),
        )


def _failure(event: RunFailed | SchemeFailed) -> Failure:
    return Failure(kind=event.kind, message=event.message, where=event.where, mend=event.mend)
