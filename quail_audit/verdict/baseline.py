"""Compare checks with an earlier run: old failures become `known`, worse figures fail.

As in `quail compare`, two figures differ if their intervals do not overlap.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace

from quail_audit.schema.figures import Knowledge, RuleOutcome, Score
from quail_audit.schema.policy import BASELINE, EXPIRED_WAIVER, FORGETTING, Policy
from quail_audit.schema.report import FULL
from quail_audit.verdict.checks import Checks
from quail_audit.verdict.comparison import CHECKPOINT_THAT_CHANGES, Comparison, SchemeComparison
from quail_audit.verdict.rules import Check, apply_waivers, check_of


def checks_against_baseline(
    now: Checks, then: Checks, changes: Comparison, policy: Policy, today: datetime.date, *, weights_only: bool
) -> Checks:
    """Return an audit's checks after comparing them with a baseline.

    Args:
        now: this audit's checks.
        then: the earlier run's, by the same policy.
        changes: from that run to this audit.
        policy: its waivers may also cover figures that got worse.
        today: the day that waivers are compared with.
        weights_only: this audit's verdict rests on its layers.
    """
    before = {(each.rule.rule, each.rule.scheme, each.rule.metric): each.rule for each in then.all}
    failing = {(found.rule.scheme, found.rule.metric) for found in now.all if found.rule.rule == FORGETTING}
    failing -= {(found.rule.scheme, found.rule.metric) for found in now.all if found.rule.standing != "failed"}
    worse = tuple(
        apply_waivers(found, policy, today) for found in _worse_checks(changes, failing, weights_only=weights_only)
    )
    schemes = {
        scheme: (
            *(_mark_known_failure(found, before) for found in checks),
            *(found for found in worse if found.rule.scheme == scheme),
        )
        for scheme, checks in now.schemes.items()
    }
    others = (
        tuple(found for found in worse if found.rule.scheme not in schemes) if worse else (_no_worse_check(changes),)
    )
    return replace(
        now, schemes=schemes, overall=(*(_mark_known_failure(found, before) for found in now.overall), *others)
    )


def _mark_known_failure(found: Check, before: dict[tuple[str, str | None, str | None], RuleOutcome]) -> Check:
    rule = found.rule
    was = before.get((rule.rule, rule.scheme, rule.metric))
    if found.outcome in (None, "pass") or rule.rule == EXPIRED_WAIVER or was is None:
        return found
    # a figure that could not be judged is neither better nor worse
    alike = ("failed", "waived") if rule.standing == "failed" else ("failed", "waived", "not judged")
    if was.standing not in alike or (rule.standing == "not judged" and rule.value is None) or _is_worse(rule, was):
        return found
    message = f"{rule.message}; no worse than in the baseline"
    return check_of(rule.model_copy(update={"standing": "known", "message": message}), "known")


def _is_worse(now: RuleOutcome, then: RuleOutcome) -> bool:
    if now.layers or then.layers:
        return not set(now.layers) <= set(then.layers)
    if now.value is None or then.value is None:
        return then.value is not None  # no figure means not forgotten at all, the worst case
    low, high = _interval_of(now)
    least, most = _interval_of(then)
    return (now.at_most is not None and low > most) or (now.at_least is not None and high < least)


def _interval_of(rule: RuleOutcome) -> tuple[float, float]:
    assert rule.value is not None  # noqa: S101 - the caller asked
    return (rule.value if rule.low is None else rule.low), (rule.value if rule.high is None else rule.high)


def _worse_checks(
    changes: Comparison, failing: set[tuple[str | None, str | None]], *, weights_only: bool
) -> Iterator[Check]:
    """Yield a failed check for each figure that got worse, except what is known and fails anyway."""
    said = set()
    for scheme in changes.schemes:
        for score in scheme.scores:
            if score.standing == "worse" and score.after is not None and score.before is not None:
                is_full = score.arm == f"{CHECKPOINT_THAT_CHANGES}/{FULL}"
                about = None if is_full else scheme.scheme
                if (score.metric, score.arm) not in said:
                    yield _worse_check("score", about, score.metric, score.arm, score.before, score.after)
                said.add((score.metric, score.arm))
        for known in scheme.knowledge:
            if known.standing == "worse" and (scheme.scheme, known.metric) not in failing:
                yield _worse_check("known", scheme.scheme, known.metric, scheme.scheme, known.before, known.after)
        if weights_only:
            yield from _worse_layers_check(scheme)


def _worse_check(
    figure: str,
    scheme: str | None,
    metric: str,
    where: str,
    then: Score | Knowledge | None,
    now: Score | Knowledge | None,
) -> Check:
    value, low, high = _figures_of(now)
    before, least, most = _figures_of(then)
    message = (
        f"worse than in the baseline: {figure} of {metric} at {where} is {_figure_text(value, low, high)}, "
        f"and was {_figure_text(before, least, most)}"
    )
    rule = RuleOutcome(
        rule=BASELINE,
        scheme=scheme,
        metric=metric,
        figure=figure,
        value=value,
        low=low,
        high=high,
        standing="failed",
        message=message,
    )
    return check_of(rule, "worse")


def _figures_of(found: Score | Knowledge | None) -> tuple[float | None, float | None, float | None]:
    if isinstance(found, Score):
        return found.mean, found.low, found.high
    known = found.known if found is not None else None
    return (None, None, None) if known is None else (known.percent, known.low, known.high)


def _figure_text(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g} to {high:.4g})"


def _worse_layers_check(scheme: SchemeComparison) -> Iterator[Check]:
    layers = tuple(layer.name for layer in scheme.layers if layer.standing == "worse")
    if layers:
        message = f"worse than in the baseline: {len(layers)} layers are newly at risk at {scheme.scheme}"
        rule = RuleOutcome(
            rule=BASELINE,
            scheme=scheme.scheme,
            figure="layers newly at risk",
            value=len(layers),
            at_most=0,
            standing="failed",
            message=message,
            layers=layers,
        )
        yield check_of(rule, "worse")


def _no_worse_check(changes: Comparison) -> Check:
    """Return a passed check, or one not judged if there was nothing to compare."""
    if changes.schemes:
        message = f"nothing got worse than in the baseline, run {changes.before}"
        return check_of(RuleOutcome(rule=BASELINE, figure="", standing="passed", message=message), "no_worse")
    message = f"the baseline, run {changes.before}, measured none of these schemes"
    rule = RuleOutcome(rule=BASELINE, figure="", standing="not judged", message=message)
    return check_of(rule, "baseline_not_comparable")
