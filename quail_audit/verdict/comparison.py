"""Compare two audits: what is better, worse or the same, by metric and by layer.

The reports may be of runs that still go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from quail_audit.schema.figures import Estimate, Kept, Knowledge, LayerStatistics, Score, State
from quail_audit.schema.report import FULL, STATES_BY_RISK, Report, SchemeReport
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.metric_kinds import DECIDING_METRICS
from quail_audit.verdict.standings import STANDINGS_BY_RISK, SchemeStanding, scheme_standings

Change = Literal["better", "worse", "same", "changed", "unknown"]
CHANGE_MARKS: Mapping[Change, str] = {"better": "▲", "worse": "▼", "same": "=", "changed": "≠", "unknown": " "}
CHECKPOINT_THAT_CHANGES = "unlearned"  # the others are the same models in both runs, so neither better nor worse


@dataclass(frozen=True)
class ScoreChange:
    """One metric on one arm, in the metric's own unit.

    Attributes:
        standing: "same" if the intervals overlap (a cautious test for paired samples); "changed" if they do not, but
            neither way is better; "unknown" while a score is missing.
    """

    metric: str
    arm: str
    before: Score | None
    after: Score | None
    standing: Change

    @property
    def difference(self) -> float | None:
        """Return the difference of the means; None while one is missing."""
        return None if self.before is None or self.after is None else self.after.mean - self.before.mean


@dataclass(frozen=True)
class KnowledgeChange:
    """Knowledge of a forget metric, before and after. Less is better."""

    metric: str
    before: Knowledge | None
    after: Knowledge | None
    standing: Change


@dataclass(frozen=True)
class KeptChange:
    """The part of a retain metric that is kept, before and after. More is better."""

    metric: str
    before: Kept | None
    after: Kept | None
    standing: Change


@dataclass(frozen=True)
class LayerChange:
    """One layer that both runs measured.

    Attributes:
        size: the key for sorting changes: steps between states, plus how far overlap and survival moved, each at most
            1.
    """

    before: LayerStatistics
    after: LayerStatistics

    @property
    def name(self) -> str:
        return self.before.name

    @property
    def size(self) -> float:
        steps = abs(STATES_BY_RISK.index(self.before.state) - STATES_BY_RISK.index(self.after.state))
        overlap = _distance(self.before.overlap, self.after.overlap)
        survival = _distance(self.before.survival, self.after.survival)
        return 2 * steps + overlap + survival

    @property
    def standing(self) -> Change:
        """Return the change in risk: a layer no longer at risk is better."""
        if self.before.at_risk == self.after.at_risk:
            return "same" if self.before.state == self.after.state else "changed"
        return "better" if self.before.at_risk else "worse"


@dataclass(frozen=True)
class SchemeComparison:
    """Two runs at one scheme.

    Attributes:
        layers: those of both runs, in the first one's order.
        only_before, only_after: names of layers that the other run lacks.
        states: (before, after) -> layers, the largest first, unchanged states included.
    """

    scheme: str
    scores: tuple[ScoreChange, ...]
    knowledge: tuple[KnowledgeChange, ...]
    layers: tuple[LayerChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    states: tuple[tuple[tuple[State | None, State | None], int], ...]
    utility: tuple[KeptChange, ...] = ()


@dataclass(frozen=True)
class StandingChange:
    """One scheme's standing before and after; None if a run was not asked for it."""

    scheme: str
    before: SchemeStanding | None
    after: SchemeStanding | None

    @property
    def standing(self) -> Change:
        if self.before is None or self.after is None or "unknown" in (self.before.standing, self.after.standing):
            return "unknown"
        one, other = (STANDINGS_BY_RISK.index(each.standing) for each in (self.before, self.after))
        return "same" if one == other else "better" if other > one else "worse"


@dataclass(frozen=True)
class Comparison:
    """Two whole audits.

    Attributes:
        caveats: how their requests differ, in words.
        formats: every scheme of either run, the first run's first.
        schemes: those that both measured, in detail.
    """

    before: str
    after: str
    caveats: tuple[str, ...]
    formats: tuple[StandingChange, ...]
    schemes: tuple[SchemeComparison, ...]


@dataclass(frozen=True)
class SharedSchemes:
    """The schemes of both runs, and those of only one."""

    both: tuple[str, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def schemes_of(before: AuditRequest, after: AuditRequest) -> SharedSchemes:
    return SharedSchemes(
        both=tuple(scheme for scheme in before.schemes if scheme in after.schemes),
        only_before=tuple(scheme for scheme in before.schemes if scheme not in after.schemes),
        only_after=tuple(scheme for scheme in after.schemes if scheme not in before.schemes),
    )


def was_measured_by_recovery(report: Report) -> bool:
    """Return whether an older Quail measured a report: by recovery, with no scores of single items."""
    return any(metric not in report.items for each in report.schemes.values() for metric in _deciding(each.knowledge))


def _deciding(metrics: Iterable[str]) -> list[str]:
    return [metric for metric in metrics if metric in DECIDING_METRICS]


def caveats(before: AuditRequest, after: AuditRequest) -> tuple[str, ...]:
    """Return how two requests differ, in words: such figures are less comparable."""
    asked = {
        "originals": (before.original, after.original),
        "data": (before.data or "none", after.data or "none"),
        "references": (before.retrain or "none", after.retrain or "none"),
        "samples": tuple(_samples(each, of_all=before.seed == after.seed) for each in (before, after)),
        "prompt formats": (before.prompt_format, after.prompt_format),
        "dtypes": (before.dtype, after.dtype),
        "policies": (before.policy or "the defaults", after.policy or "the defaults"),
    }
    return tuple(f"different {what}: {one} and {other}" for what, (one, other) in asked.items() if one != other)


def _samples(request: AuditRequest, *, of_all: bool) -> str:
    """Return how many samples were asked for, in words; of_all: those that were drawn are alike, so say no seed."""
    asked = str(request.max_samples or "all")
    if request.max_samples is not None and not of_all:
        asked = f"{asked} drawn by seed {request.seed}"
    return f"{asked} until decided" if request.stop_when_decided else asked


def compare_scheme(before: Report, after: Report, scheme: str) -> SchemeComparison:
    """Compare two reports at a scheme. A report without it counts as empty."""
    one, other = _scheme_report(before, scheme), _scheme_report(after, scheme)
    layers = {layer.name: layer for layer in one.layers}
    later = {layer.name: layer for layer in other.layers}
    changes = tuple(LayerChange(layer, later[name]) for name, layer in layers.items() if name in later)
    counted = Counter((change.before.state, change.after.state) for change in changes)
    return SchemeComparison(
        scheme=scheme,
        scores=tuple(_score_changes(one, other, scheme)),
        knowledge=tuple(
            KnowledgeChange(
                metric, a := one.knowledge.get(metric), b := other.knowledge.get(metric), _knowledge_change(a, b)
            )
            for metric in _keys_in_order(one.knowledge, other.knowledge)
        ),
        layers=changes,
        only_before=tuple(name for name in layers if name not in later),
        only_after=tuple(name for name in later if name not in layers),
        states=tuple(counted.most_common()),
        utility=tuple(
            KeptChange(
                metric, kept := one.utility.get(metric), left := other.utility.get(metric), _kept_change(kept, left)
            )
            for metric in _keys_in_order(one.utility, other.utility)
        ),
    )


def compare(before: Report, after: Report) -> Comparison:
    """Compare two reports at every scheme; before and after are their runs' ids."""
    one, other = ({each.scheme: each for each in scheme_standings(report)} for report in (before, after))
    return Comparison(
        before=before.run_id,
        after=after.run_id,
        caveats=(*_measured_caveats(before, after), *caveats(before.request, after.request)),
        formats=tuple(
            StandingChange(scheme, one.get(scheme), other.get(scheme)) for scheme in _keys_in_order(one, other)
        ),
        schemes=tuple(compare_scheme(before, after, scheme) for scheme in one if scheme in other),
    )


def _measured_caveats(before: Report, after: Report) -> Iterator[str]:
    older = [report.run_id for report in (before, after) if was_measured_by_recovery(report)]
    if len(older) == 1:
        yield (
            f"{older[0]} was measured by recovery: what came back above the larger of two floors, with no items counted"
        )


def lower_is_better(metric: str) -> bool | None:
    """Return whether a lower score is better for an unlearned model; None if neither is.

    A forget set should be answered badly and a retain set well; for a loss it is the other way round. An AUC should be
    the reference's, neither above nor below.
    """
    kind, _, split = metric.rpartition("_")
    if split not in ("forget", "retain"):
        return None
    return (split == "forget") != (kind == "nll")


def _scheme_report(report: Report, scheme: str) -> SchemeReport:
    empty = SchemeReport(summary=None, layers=(), metrics={})
    return report.schemes.get(scheme, empty)


def _keys_in_order(*mappings: Mapping[str, object]) -> tuple[str, ...]:
    """Return the keys of all mappings, each once, in order of appearance."""
    return tuple(dict.fromkeys(key for mapping in mappings for key in mapping))


def _score_changes(before: SchemeReport, after: SchemeReport, scheme: str) -> Iterator[ScoreChange]:
    for metric in _keys_in_order(before.metrics, after.metrics):
        one, other = before.metrics.get(metric, {}), after.metrics.get(metric, {})
        for arm in _arms_in_order(_keys_in_order(one, other), scheme):
            a, b = one.get(arm), other.get(arm)
            lower = lower_is_better(metric) if arm.startswith(f"{CHECKPOINT_THAT_CHANGES}/") else None
            yield ScoreChange(metric, arm, a, b, _score_change(a, b, lower))


def _arms_in_order(arms: Iterable[str], scheme: str) -> list[str]:
    """Return the arms, the checkpoint that changes first, each in full precision and then rounded."""
    checkpoints = (CHECKPOINT_THAT_CHANGES, "original", "retrain")
    order = [f"{checkpoint}/{precision}" for checkpoint in checkpoints for precision in (FULL, scheme)]
    return sorted(arms, key=lambda arm: order.index(arm) if arm in order else len(order))


def _score_change(before: Score | None, after: Score | None, lower: bool | None) -> Change:
    if before is None or after is None:
        return "unknown"
    if before.low <= after.high and after.low <= before.high:
        return "same"
    if lower is None:
        return "changed"
    return "better" if (after.mean < before.mean) == lower else "worse"


def _knowledge_change(before: Knowledge | None, after: Knowledge | None) -> Change:
    """Compare by intervals if both have one; a forget set that was not forgotten is the worst."""
    if before is None or after is None:
        return "unknown"
    failed = before.outcome == "not forgotten", after.outcome == "not forgotten"
    if failed[0] != failed[1]:
        return "better" if failed[0] else "worse"
    if before.known is None or after.known is None:
        return "unknown"
    if _overlap(before.known, after.known):
        return "same"
    if "reported only" in (before.outcome, after.outcome):
        return "changed"
    return "better" if after.known.percent < before.known.percent else "worse"


def _kept_change(before: Kept | None, after: Kept | None) -> Change:
    if before is None or after is None or before.utility is None or after.utility is None:
        return "unknown"
    if _overlap(before.utility, after.utility):
        return "same"
    return "better" if after.utility.percent > before.utility.percent else "worse"


def _overlap(before: Estimate, after: Estimate) -> bool:
    return before.low <= after.high and after.low <= before.high


def _distance(before: float | None, after: float | None) -> float:
    """Return how far a share moved, at most 1; 1 if only one is known."""
    if before is None or after is None:
        return float(before is not after)
    return min(1.0, abs(after - before))
