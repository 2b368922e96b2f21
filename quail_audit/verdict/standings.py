"""Give each scheme's standing in an audit: its verdict and deciding figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from quail_audit.schema.figures import Recovery, Score, Verdict
from quail_audit.schema.report import FULL, Failure, Report, SchemeReport, arm_at

SchemeOutcome = Literal["pass", "fail", "inconclusive", "not measured", "unknown"]
STANDINGS_BY_RISK: tuple[SchemeOutcome, ...] = ("fail", "not measured", "inconclusive", "pass", "unknown")

# The worst first; "reported only" does not decide.
_OUTCOMES_BY_RISK = (
    "not forgotten",
    "recovered",
    "undecided",
    "no floor",
    "no rounded arm",
    "held",
    "uninformative",
)
LEAST_UTILITY_POINTS = 5.0  # below this score of the original, a share of it means nothing


@dataclass(frozen=True)
class SchemeStanding:
    """One scheme of an audit.

    Attributes:
        scheme: its name.
        standing: "unknown" while it is being measured, and in older reports on several schemes.
        metric, recovery: the forget metric that comes back most, and how much; None if there is none.
        layers_at_risk: None until every layer has been measured.
        layers: measured so far.
        utility_percent: what the deployed model keeps of the original: the mean of a retain metric on
            unlearned/<scheme>, in percent of its mean on original/full, or on the original as stored if it is already
            quantized; the least of several metrics. None if none was measured, or the original scores under
            LEAST_UTILITY_POINTS.
        failure: why it could not be measured.
    """

    scheme: str
    standing: SchemeOutcome
    metric: str | None
    recovery: Recovery | None
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
    metric, recovery = _worst_recovery(measured.recovery)
    return SchemeStanding(
        scheme=scheme,
        standing="not measured" if measured.failure is not None else standing,
        metric=metric,
        recovery=recovery,
        layers_at_risk=measured.summary.layers_at_risk if measured.summary is not None else None,
        layers=len(measured.layers),
        utility_percent=_utility_percent(scheme, measured.metrics),
        failure=measured.failure,
    )


def safe_to_ship(found: Iterable[SchemeStanding]) -> tuple[str, ...]:
    """Return the schemes that pass."""
    return tuple(each.scheme for each in found if each.standing == "pass")


def riskiness(each: SchemeStanding) -> tuple[int, float, int, str]:
    """Return the key that sorts the worst scheme first: by standing, recovery, layers at risk, name."""
    percent = each.recovery.percent if each.recovery is not None and each.recovery.percent is not None else 0.0
    return STANDINGS_BY_RISK.index(each.standing), -percent, -(each.layers_at_risk or 0), each.scheme


def worst(report: Report) -> str | None:
    """Return the worst scheme of those that were measured; None if none was."""
    measured = [each for each in scheme_standings(report) if each.failure is None]
    return min(measured, key=riskiness).scheme if measured else None


def _worst_recovery(recoveries: Mapping[str, Recovery]) -> tuple[str | None, Recovery | None]:
    deciding = [(metric, found) for metric, found in recoveries.items() if found.outcome in _OUTCOMES_BY_RISK]
    if not deciding:
        return None, None
    return min(deciding, key=lambda pair: (_OUTCOMES_BY_RISK.index(pair[1].outcome), -(pair[1].percent or 0.0)))


def _utility_percent(scheme: str, metrics: Mapping[str, Mapping[str, Score]]) -> float | None:
    deployed = arm_at("unlearned", scheme)
    pairs = [
        (arms.get(deployed), arms.get(f"original/{FULL}", arms.get(arm_at("original", scheme))))
        for metric, arms in metrics.items()
        if metric.endswith("_retain") and not metric.startswith("nll")  # a loss has no zero to be a share of
    ]
    kept = [
        100.0 * unlearned.mean / original.mean
        for unlearned, original in pairs
        if unlearned is not None and original is not None and original.mean >= LEAST_UTILITY_POINTS
    ]
    return min(kept, default=None)
