"""Fold an audit's events into what is known so far, and into its report."""

import math
from collections import defaultdict
from dataclasses import dataclass, field

from quail_audit.schema.events.audit import (
    ArmFinished,
    ArmStarted,
    DataRead,
    FilesAwaited,
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
from quail_audit.schema.events.common import Noted, RunFailed, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import (
    CheckpointFacts,
    FileHash,
    Kept,
    Knowledge,
    LayerStatistics,
    OtherTensors,
    PolicyUsed,
    RuleOutcome,
    SchemeSummary,
    Score,
    Verdict,
)
from quail_audit.schema.older import knowledge_of
from quail_audit.schema.report import ArmReport, Failure, Report, SchemeReport, arms_in_order


@dataclass
class RunningMean:
    """Count, mean and squared deviations of one metric's samples on one arm, while they are being scored.

    Added up as in Welford (1962), so scores far from zero lose no precision.
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
        """Return half the normal 95 % interval of the mean, until the bootstrap's is there; None for one sample."""
        if self.samples < 2:
            return None
        return 1.96 * math.sqrt(self.deviations / (self.samples - 1) / self.samples)


@dataclass(frozen=True)
class QuantizingProgress:
    """A backend's progress with one checkpoint.

    Attributes:
        index: the current layer, from 1.
        total: how many layers there are.
        started_s: when the first layer began, in seconds since the run started.
    """

    index: int
    total: int
    started_s: float

    def remaining_s(self, at_s: float) -> float | None:
        """Return the seconds to go at the pace so far; None at the first layer, and at the last, which may be done."""
        done = self.index - 1
        return (at_s - self.started_s) / done * (self.total - done) if 0 < done < self.total - 1 else None


@dataclass(frozen=True)
class HashingProgress:
    """The progress of hashing once all else is done: the first and the last event about it."""

    first: FilesAwaited
    last: FilesAwaited

    @property
    def remaining_s(self) -> float | None:
        """Return the seconds to go at the pace since all else was done; None until there is one."""
        done, elapsed_s = self.last.done_bytes - self.first.done_bytes, self.last.at_s - self.first.at_s
        return (self.last.total_bytes - self.last.done_bytes) / done * elapsed_s if done > 0 else None


@dataclass
class AuditState:
    """Everything the events of a run have said so far. Apply them in order."""

    started: RunStarted | None = None
    policy: PolicyUsed | None = None
    pair: PairOpened | None = None
    data: DataRead | None = None
    plan: Planned | None = None
    layers: dict[str, list[LayerStatistics]] = field(default_factory=lambda: defaultdict(list))
    layers_done: int = 0
    quantizing: dict[tuple[str, str], QuantizingProgress] = field(default_factory=dict)  # (scheme, side), in order
    summaries: dict[str, SchemeSummary] = field(default_factory=dict)
    other_tensors: OtherTensors | None = None
    arms: dict[str, ArmReport] = field(default_factory=dict)
    running: dict[tuple[str, str], RunningMean] = field(default_factory=lambda: defaultdict(RunningMean))
    earlier_s: dict[str, float] = field(default_factory=dict)  # arm -> seconds that its earlier blocks took
    samples_done: dict[str, int] = field(default_factory=dict)
    scores: dict[str, dict[str, Score]] = field(default_factory=lambda: defaultdict(dict))  # metric -> arm -> score
    items: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=lambda: defaultdict(dict))  # as scores
    knowledge: dict[str, dict[str, Knowledge]] = field(default_factory=lambda: defaultdict(dict))  # scheme -> metric
    utility: dict[str, dict[str, Kept]] = field(default_factory=lambda: defaultdict(dict))
    notes: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    rules: tuple[RuleOutcome, ...] = ()
    failures: dict[str, Failure] = field(default_factory=dict)  # scheme -> why it could not be measured
    files: tuple[FileHash, ...] = ()
    awaiting: HashingProgress | None = None  # set while only hashing is left
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
                self.quantizing[event.scheme, event.side] = QuantizingProgress(event.index, event.total, started_s)
            case WeightsMeasured():
                self.summaries[event.scheme] = event.summary
            case OtherTensorsRead():
                self.other_tensors = event.tensors
            case ArmStarted():
                before = self.arms.get(event.arm)
                if before is not None and before.elapsed_s is not None:  # asked in blocks
                    self.earlier_s[event.arm] = before.elapsed_s
                self.arms[event.arm] = ArmReport(
                    execution=event.execution, device=event.device, dtype=event.dtype, reason=event.reason
                )
                self.samples_done.setdefault(event.arm, 0)
            case SampleScored():
                self.running[event.arm, event.metric].add(event.score)
                self.samples_done[event.arm] = event.done
                self.last_sample = event
            case MetricScored():
                self.scores[event.metric][event.arm] = event.score
                if event.items:
                    self.items[event.metric][event.arm] = event.items
            case ArmFinished():
                if event.arm in self.arms:
                    elapsed_s = round(self.earlier_s.get(event.arm, 0.0) + event.elapsed_s, 3)
                    self.arms[event.arm] = self.arms[event.arm].model_copy(update={"elapsed_s": elapsed_s})
            case KnowledgeMeasured():
                self.knowledge[event.scheme][event.metric] = event.knowledge
            case UtilityMeasured():
                self.utility[event.scheme][event.metric] = event.kept
            case RecoveryMeasured():
                samples = self.data.samples.get(event.metric, 0) if self.data is not None else 0
                self.knowledge[event.scheme][event.metric] = knowledge_of(event.recovery, samples)
            case FilesAwaited():
                self.awaiting = HashingProgress(event if self.awaiting is None else self.awaiting.first, event)
            case FilesHashed():
                self.files = event.files
                self.awaiting = None
            case Noted():
                self.notes.append(event.message)
            case SchemeFailed():
                self.failures[event.scheme] = Failure.of(event)
            case VerdictReached():
                self.verdict = event.verdict
                self.verdicts = event.schemes
                self.rules = event.rules
            case RunFinished() | RunFailed():
                self.end = event

    @property
    def remaining_s(self) -> float | None:
        """Return the seconds to go at the pace of the finished arms, or of the hashing; None if unknown."""
        if self.plan is None or self.end is not None:
            return None
        if self.awaiting is not None:
            return self.awaiting.remaining_s
        if self.may_stop_early:
            return None
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
    def may_stop_early(self) -> bool:
        """Return True while it is open how many items the arms will be asked, which are then at most as planned."""
        return self.end is None and self.started is not None and self.started.request.stop_when_decided

    @property
    def quantizing_now(self) -> tuple[str, str, QuantizingProgress] | None:
        """Return the scheme, the side and how far a backend is with them; None while none is at work."""
        for (scheme, side), found in reversed(self.quantizing.items()):
            is_over = scheme in self.summaries or scheme in self.failures or self.end is not None
            return None if is_over else (scheme, side, found)
        return None

    @property
    def schemes(self) -> tuple[str, ...]:
        """Return the schemes measured: those asked for, or the format that the checkpoints are stored in."""
        if self.plan is not None and self.plan.stored_as is not None:
            return (self.plan.stored_as,)
        return self.started.request.schemes if self.started is not None else ()

    def report(self) -> Report:
        """Return the report of what is known so far.

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
            failure=Failure.of(self.end) if isinstance(self.end, RunFailed) else None,
            schemes={scheme: self.scheme(scheme) for scheme in self.schemes},
            policy=self.policy,
            rules=self.rules,
            files=self.files,
            differences=self.pair.differences if self.pair else (),
            other_tensors=self.other_tensors,
            items={metric: dict(arms) for metric, arms in self.items.items()},
            population=self.data.population if self.data else {},
        )

    def _checkpoints(self) -> dict[str, CheckpointFacts]:
        if self.pair is None:
            return {}
        facts = {"original": self.pair.original, "unlearned": self.pair.unlearned, "retrain": self.pair.retrain}
        return {name: fact for name, fact in facts.items() if fact is not None}

    def scheme(self, scheme: str) -> SchemeReport:
        """Return what is known so far of one scheme."""
        metrics = {m: {arm: arms[arm] for arm in arms_in_order(arms, scheme)} for m, arms in self.scores.items()}
        return SchemeReport(
            summary=self.summaries.get(scheme),
            layers=tuple(self.layers[scheme]) if scheme in self.layers else (),
            metrics={metric: arms for metric, arms in metrics.items() if arms},
            knowledge=dict(self.knowledge[scheme]) if scheme in self.knowledge else {},
            utility=dict(self.utility[scheme]) if scheme in self.utility else {},
            verdict=self.verdicts.get(scheme),
            failure=self.failures.get(scheme),
        )
