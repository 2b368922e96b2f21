"""Give each scheme's standing in an audit: its verdict and deciding figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from quail_audit.schema.figures import Knowledge, KnowledgeOutcome, Score, Verdict
from quail_audit.schema.report import FULL, Failure, Report, SchemeReport, arm_at
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, retain_metrics

SchemeOutcome = Literal["pass", "fail", "inconclusive", "not measured", "unknown"]
STANDINGS_BY_RISK: tuple[SchemeOutcome, ...] = ("fail", "not measured", "inconclusive", "pass", "unknown")

# The worst first; "reported only" does not decide.
_OUTCOMES_BY_RISK: tuple[KnowledgeOutcome, ...] = (
    "not forgotten",
    "swapped",
    "comes back",
    "undecided",
    "no floor",
    "no rounded arm",
    "holds",
    "broken format",
    "uninformative",
)
FULL_OUTCOMES: tuple[KnowledgeOutcome, ...] = ("not forgotten", "swapped")  # told in full precision
LEAST_UTILITY_POINTS = 5.0  # below this score of the original, a share of it means nothing


@dataclass(frozen=True)
class SchemeStanding:
    """One scheme of an audit.

    Attributes:
        scheme: its name.
        standing: "unknown" while it is being measured, and in older reports on several schemes.
        metric, knowledge: the forget metric of the worst outcome and most items back; None if there is none.
        layers_at_risk: None until every layer has been measured.
        layers: measured so far.
        utility_percent: what the deployed model keeps of the original: the mean of a retain metric on
            unlearned/<scheme>, in percent of its mean on original/<scheme>, or in full precision if that was not
            measured; the least of several metrics. None if none was measured, or the original scores under
            LEAST_UTILITY_POINTS.
        failure: why it could not be measured.
    """

    scheme: str
    standing: SchemeOutcome
    metric: str | None
    knowledge: Knowledge | None
    layers_at_risk: int | None
    layers: int
    utility_percent: float | None
    failure: Failure | None


def scheme_standings(report: Report) -> tuple[SchemeStanding, ...]:
    """Return every scheme's standing, in the order of the request."""
    alone = report.verdict if len(report.schemes) == 1 else None  # a lone scheme's verdict is the release's
    return tuple(standing_of(scheme, measured, alone) for scheme, measured in report.schemes.items())


def standing_of(scheme: str, measured: SchemeReport, alone: Verdict | None = None) -> SchemeStanding:
    """Return one scheme's standing, as far as it has been measured.

    Args:
        scheme: its name.
        measured: what was found.
        alone: the release's verdict, if this is its only scheme.
    """
    verdict = measured.verdict or alone
    standing: SchemeOutcome = "unknown" if verdict is None else verdict.outcome
    metric, knowledge = _worst_knowledge(measured.knowledge)
    return SchemeStanding(
        scheme=scheme,
        standing="not measured" if measured.failure is not None else standing,
        metric=metric,
        knowledge=knowledge,
        layers_at_risk=measured.summary.layers_at_risk if measured.summary is not None else None,
        layers=len(measured.layers),
        utility_percent=_utility_percent(scheme, measured.metrics),
        failure=measured.failure,
    )


def holds_at(found: Iterable[SchemeStanding]) -> tuple[str, ...]:
    """Return the schemes that pass: forgetting holds at these."""
    return tuple(each.scheme for each in found if each.standing == "pass")


def riskiness(each: SchemeStanding) -> tuple[int, float, int, str]:
    """Return the key that sorts the worst scheme first: by standing, what is known, layers at risk, name."""
    percent = each.knowledge.known.percent if each.knowledge is not None and each.knowledge.known is not None else 0.0
    return STANDINGS_BY_RISK.index(each.standing), -percent, -(each.layers_at_risk or 0), each.scheme


def worst(report: Report) -> str | None:
    """Return the worst scheme of those that were measured; None if none was."""
    measured = [each for each in scheme_standings(report) if each.failure is None]
    return min(measured, key=riskiness).scheme if measured else None


def worst_first(item: tuple[str, Knowledge]) -> tuple[int, float, int, int]:
    """Return the key that sorts (metric, what is known) by outcome, the share of items back, and what is known."""
    metric, found = item
    back = found.back if found.kept is None or found.outcome not in FULL_OUTCOMES else found.kept
    share = back.count / back.items if back is not None else 0.0
    percent = round(found.known.percent) if found.known is not None else 0
    order = DECIDING_METRICS.index(metric) if metric in DECIDING_METRICS else len(DECIDING_METRICS)
    return _OUTCOMES_BY_RISK.index(found.outcome), -share, -percent, order


def _worst_knowledge(measured: Mapping[str, Knowledge]) -> tuple[str | None, Knowledge | None]:
    deciding = [(metric, found) for metric, found in measured.items() if found.outcome in _OUTCOMES_BY_RISK]
    return min(deciding, key=worst_first, default=(None, None))


def _utility_percent(scheme: str, metrics: Mapping[str, Mapping[str, Score]]) -> float | None:
    deployed = arm_at("unlearned", scheme)
    pairs = [
        (arms.get(deployed), arms.get(arm_at("original", scheme), arms.get(f"original/{FULL}")))
        for metric in retain_metrics(metrics)
        for arms in [metrics[metric]]
    ]
    kept = [
        100.0 * unlearned.mean / original.mean
        for unlearned, original in pairs
        if unlearned is not None and original is not None and original.mean >= LEAST_UTILITY_POINTS
    ]
    return min(kept, default=None)
