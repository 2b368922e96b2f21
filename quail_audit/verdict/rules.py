"""Judge a policy's own rules and requirements, and apply its waivers."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from quail_audit.schema.figures import Knowledge, LayerStatistics, Outcome, Reason, RuleOutcome, Score
from quail_audit.schema.policy import (
    EXPIRED_WAIVER,
    REQUIRED_METRIC,
    REQUIRED_SAMPLES,
    REQUIRED_SCHEME,
    LayerFigure,
    Policy,
    Rule,
    Waiver,
    fits,
)


@dataclass(frozen=True)
class SchemeResults:
    """An audit's results for one scheme.

    Attributes:
        layers: the layers' statistics.
        knowledge: forget metric -> what is known; empty in a weights-only audit.
        scores: metric -> its score on the unlearned checkpoint as it is deployed.
    """

    layers: Sequence[LayerStatistics] = ()
    knowledge: Mapping[str, Knowledge] = field(default_factory=dict)
    scores: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A rule's outcome, and its reason for the verdict.

    Attributes:
        rule: the outcome.
        reason: what the verdict says about it.
        is_said: whether the verdict gives the reason; None: if the rule decides.
    """

    rule: RuleOutcome
    reason: Reason
    is_said: bool | None = None

    @property
    def outcome(self) -> Outcome | None:
        """Return its part in the verdict; None if it does not decide."""
        if not self.rule.decides:
            return None
        return {"failed": "fail", "not judged": "inconclusive"}.get(self.rule.standing, "pass")  # type: ignore[return-value]


def check_of(rule: RuleOutcome, code: str) -> Check:
    """Return a rule's outcome with a reason of the same words."""
    return Check(rule, Reason(code=code, message=rule.message, layers=rule.layers, scheme=rule.scheme))


def rule_checks(scheme: str, measured: SchemeResults, policy: Policy) -> Iterator[Check]:
    """Yield the checks of the policy's own rules at a scheme."""
    for rule in policy.rules:
        if fits(scheme, rule.schemes):
            outcomes = (
                _metric_outcomes(rule, scheme, measured)
                if rule.is_of_metrics
                else [_layer_outcome(rule, scheme, measured)]
            )
            for outcome in outcomes:
                yield check_of(outcome, f"rule_{outcome.standing.replace(' ', '_')}")


def rule_checks_without_schemes(schemes: Iterable[str], policy: Policy) -> Iterator[Check]:
    """Yield checks for rules about schemes that this audit lacks. They do not decide."""
    schemes = tuple(schemes)
    for rule in policy.rules:
        if not any(fits(scheme, rule.schemes) for scheme in schemes):
            message = f"{rule.name}: no scheme of this audit is one of {', '.join(rule.schemes)}"
            yield check_of(
                _rule_outcome(rule, standing="not judged", message=message, decides=False), "rule_not_judged"
            )


def requirement_checks(
    policy: Policy, asked: Sequence[str], measured: Sequence[str], samples: Mapping[str, int]
) -> Iterator[Check]:
    """Yield the checks of what the policy requires to be measured.

    Args:
        policy: the policy.
        asked: the schemes of the audit.
        measured: those that could be measured.
        samples: metric -> how many samples were scored.
    """
    for scheme in policy.required.schemes:
        standing, said = "passed", "was measured"
        if scheme not in asked:
            standing, said = "failed", "was not asked for: add --scheme"
        elif scheme not in measured:
            standing, said = "not judged", "could not be measured"
        message = f"the policy requires the scheme {scheme}, which {said}"
        yield _requirement_check(REQUIRED_SCHEME, "measured", standing, message, scheme=scheme)
    for metric in policy.required.metrics:
        standing = "passed" if samples.get(metric) else "failed"
        said = "was measured" if standing == "passed" else "was not measured"
        message = f"the policy requires the metric {metric}, which {said}"
        yield _requirement_check(REQUIRED_METRIC, "measured", standing, message, metric=metric)
    for metric, least in policy.required.samples.items():
        found = samples.get(metric, 0)
        standing = "passed" if found >= least else "failed"
        message = f"the policy requires {least} samples of {metric}, and {found} were scored"
        yield _requirement_check(
            REQUIRED_SAMPLES, "samples", standing, message, metric=metric, value=found, at_least=least
        )


def expired_waiver_checks(policy: Policy, today: datetime.date) -> Iterator[Check]:
    """Yield a failed check for each expired waiver."""
    for waiver in policy.waivers:
        if waiver.has_expired(today):
            message = (
                f"the waiver of {waiver.rule} by {waiver.owner} expired on {waiver.expires.isoformat()}: fix what it "
                f"waived, or renew it ({waiver.reason})"
            )
            rule = RuleOutcome(rule=EXPIRED_WAIVER, figure="day", standing="failed", message=message, waivers=(waiver,))
            yield check_of(rule, "waiver_expired")


def apply_waivers(found: Check, policy: Policy, today: datetime.date) -> Check:
    """Return the check, waived if valid waivers cover it and all its failing layers."""
    rule = found.rule
    if found.outcome in (None, "pass") or rule.rule == EXPIRED_WAIVER:
        return found
    waivers = [
        waiver
        for waiver in policy.waivers
        if not waiver.has_expired(today) and waiver.is_about(rule.rule, rule.scheme, rule.metric)
    ]
    whole = next((waiver for waiver in waivers if waiver.layers is None), None)
    used = dict.fromkeys(
        next((waiver for waiver in waivers if fits(layer, waiver.layers)), None) for layer in rule.layers
    )
    covering = (whole,) if whole is not None else tuple(waiver for waiver in used if waiver is not None)
    if not covering or (whole is None and None in used):
        return found
    by = "; ".join(f"until {each.expires.isoformat()} by {each.owner}: {each.reason}" for each in covering)
    message = f"{rule.message}; waived {by}"
    return check_of(rule.model_copy(update={"standing": "waived", "message": message, "waivers": covering}), "waived")


def unused_waivers(policy: Policy, checks: Iterable[Check], today: datetime.date) -> tuple[Waiver, ...]:
    """Return the valid waivers that waived nothing."""
    used = [waiver for found in checks for waiver in found.rule.waivers]
    return tuple(waiver for waiver in policy.waivers if not waiver.has_expired(today) and waiver not in used)


def _requirement_check(
    name: str,
    figure: str,
    standing: str,
    message: str,
    *,
    scheme: str | None = None,
    metric: str | None = None,
    value: float | None = None,
    at_least: float | None = None,
) -> Check:
    rule = RuleOutcome.model_validate(
        {
            "rule": name,
            "scheme": scheme,
            "metric": metric,
            "figure": figure,
            "value": value,
            "at_least": at_least,
            "standing": standing,
            "message": message,
        }
    )
    return check_of(rule, f"required_{standing.replace(' ', '_')}")


def _rule_outcome(rule: Rule, **known: object) -> RuleOutcome:
    limits = {"at_least": rule.at_least, "at_most": rule.at_most}
    return RuleOutcome.model_validate({"rule": rule.name, "figure": rule.figure, **limits, **known})


def _metric_outcomes(rule: Rule, scheme: str, measured: SchemeResults) -> Iterator[RuleOutcome]:
    """Judge by the interval: passed or failed if all of it is on one side of the limit."""
    scores: dict[str, _Figure] = {
        metric: found for metric, found in _figures_of(rule, measured) if fits(metric, rule.metrics)
    }
    if not scores:
        message = (
            f"{rule.name}: no {rule.figure} of {', '.join(rule.metrics or ('any metric',))} was measured at {scheme}"
        )
        yield _rule_outcome(rule, scheme=scheme, standing="not judged", message=message)
    for metric, figure in sorted(scores.items()):
        about = f"{rule.name}: {rule.figure} of {metric} at {scheme}"
        if figure.value is None or figure.low is None or figure.high is None:
            yield _rule_outcome(
                rule,
                scheme=scheme,
                metric=metric,
                standing="failed" if figure.outcome == "not forgotten" else "not judged",
                decides=figure.outcome not in ("uninformative", "broken format"),
                message=f"{about} has no figure: {figure.outcome}",
            )
            continue
        standing = _standing(figure.low, figure.high, rule)
        doubt = "; too few items to tell" if standing == "not judged" else ""
        yield _rule_outcome(
            rule,
            scheme=scheme,
            metric=metric,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            standing=standing,
            message=f"{about} is {figure.value:.4g}, 95 % interval {figure.low:.4g} to {figure.high:.4g}; "
            f"{_limits_text(rule)}{doubt}",
        )


_Ends = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class _Figure:
    value: float | None
    low: float | None
    high: float | None
    outcome: str = ""


def _figures_of(rule: Rule, measured: SchemeResults) -> Iterator[tuple[str, _Figure]]:
    """Yield (metric, figure) of a rule about metrics."""
    if rule.figure == "score":
        for metric, score in measured.scores.items():
            yield metric, _Figure(score.mean, score.low, score.high)
        return
    for metric, knowledge in measured.knowledge.items():
        if rule.figure == "known":
            known = knowledge.known
            found: _Ends = (None, None, None) if known is None else (known.percent, known.low, known.high)
        else:
            back = knowledge.back
            found = (None, None, None) if back is None else (100.0 * back.count / back.items, back.low, back.high)
        yield metric, _Figure(*found, knowledge.outcome)


def _layer_outcome(rule: Rule, scheme: str, measured: SchemeResults) -> RuleOutcome:
    """Judge every matching layer that has the figure; an unchanged layer has no survival."""
    figure: LayerFigure = rule.figure  # type: ignore[assignment]  # the caller asked
    fitting = [layer for layer in measured.layers if fits(layer.name, rule.layers)]
    about = f"{rule.name}: {figure} of {', '.join(rule.layers or ('any layer',))} at {scheme}"
    if not fitting:
        return _rule_outcome(rule, scheme=scheme, standing="not judged", message=f"{about}: no layer has such a name")
    values = {layer.name: value for layer in fitting if (value := getattr(layer, figure)) is not None}
    if not values:
        untouched = all(layer.state == "untouched" for layer in fitting)
        said = "none of these layers changed" if untouched else "none of these layers has such a figure"
        return _rule_outcome(
            rule, scheme=scheme, standing="passed" if untouched else "not judged", message=f"{about}: {said}"
        )
    beyond = {name: _excess(value, rule) for name, value in values.items()}
    worst = max(values, key=lambda name: beyond[name])
    failing = tuple(name for name in values if beyond[name] > 0.0)
    share = f"{len(failing)} of {len(values)} layers do not meet it" if failing else f"all {len(values)} layers meet it"
    return _rule_outcome(
        rule,
        scheme=scheme,
        value=values[worst],
        standing="failed" if failing else "passed",
        message=f"{about} is {values[worst]:.4g} in the worst layer, {worst}; {_limits_text(rule)}; {share}",
        layers=failing,
    )


def _excess(value: float, rule: Rule) -> float:
    """Return how far a value is outside the limits; 0 or less inside."""
    below = rule.at_least - value if rule.at_least is not None else -float("inf")
    above = value - rule.at_most if rule.at_most is not None else -float("inf")
    return max(below, above)


def _standing(low: float, high: float, rule: Rule) -> str:
    least = -float("inf") if rule.at_least is None else rule.at_least
    most = float("inf") if rule.at_most is None else rule.at_most
    if least <= low and high <= most:
        return "passed"
    return "failed" if high < least or low > most else "not judged"


def _limits_text(rule: Rule) -> str:
    return f"the limit is {limits_in_words(rule.at_least, rule.at_most)}"


def limits_in_words(at_least: float | None, at_most: float | None) -> str:
    """Return the limits in words: at least 0.8 and at most 1."""
    least = f"at least {at_least:g}" if at_least is not None else ""
    most = f"at most {at_most:g}" if at_most is not None else ""
    return " and ".join(part for part in (least, most) if part)
