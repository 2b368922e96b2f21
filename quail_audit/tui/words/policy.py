"""Put a policy into words: its limits, requirements, rules and waivers, each as a row.

Every text comes out printable, as names, reasons and owners are untrusted.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

from quail_audit.core.untrusted import printable
from quail_audit.schema.figures import RuleOutcome
from quail_audit.schema.policy import EVERYTHING, Limits, OtherLimits, Policy, Waiver
from quail_audit.verdict.rules import limits_in_words

Row = tuple[str, str]  # what, and its value
LONGEST_NAME = 40  # in a column of its own
EVERYWHERE = "everywhere"


def limits_in_a_line(limits: Limits | OtherLimits) -> str:
    """List the limits that are set: known ≤ 10 % · back ≤ 10 % · utility ≥ 80 % · overlap < 0.999 · survival ≥ 0.5."""
    words = {
        "known ≤ {:g} %": limits.max_known_percent,
        "back ≤ {:g} %": limits.max_back_percent,
        "utility ≥ {:g} %": limits.min_utility_percent,
        "overlap < {:g}": limits.overlap_at_risk,
        "survival ≥ {:g}": limits.survival_at_risk,
    }
    return " · ".join(template.format(value) for template, value in words.items() if value is not None)


def contents_in_a_line(policy: Policy, day: datetime.date) -> str:
    """Count what there is besides limits: ! 1 of 2 waivers expired · 3 rules; empty if there is nothing."""
    parts = [_waivers_text(policy, day), _count_text(len(policy.rules), "rule")]
    required = policy.required
    parts.append(_count_text(len(required.schemes) + len(required.metrics) + len(required.samples), "requirement"))
    parts.append(_count_text(len(policy.limits.where), "exception"))
    return " · ".join(part for part in parts if part)


def rows_of_limits(limits: Limits) -> Iterator[Row]:
    """Yield the limits that hold everywhere, then the exceptions."""
    yield EVERYWHERE, _every_limit(limits)
    for each in limits.where:
        yield _about(each.schemes, each.metrics, each.layers), _every_limit(each)


def rows_of_required(policy: Policy) -> Iterator[Row]:
    """Yield what must be measured."""
    for scheme in policy.required.schemes:
        yield _name(scheme), "the scheme must be measured"
    for metric in policy.required.metrics:
        yield _name(metric), "the metric must be measured"
    for metric, least in policy.required.samples.items():
        yield _name(metric), f"at least {least} samples"


def rows_of_rules(policy: Policy) -> Iterator[Row]:
    """Yield the policy's own rules."""
    for rule in policy.rules:
        about = _about(rule.schemes, rule.metrics, rule.layers)
        yield _name(rule.name), f"{rule.figure} {limits_in_words(rule.at_least, rule.at_most)} · {about}"


def rows_of_waivers(policy: Policy, day: datetime.date, rules: Sequence[RuleOutcome] | None = None) -> Iterator[Row]:
    """Yield each waiver: what it waives, until when, by whom and why.

    Args:
        policy: the policy of the waivers.
        day: the day to compare with their end.
        rules: the outcomes of rules, once judged; then a waiver that waived nothing is marked.
    """
    used = [waiver for rule in rules or () for waiver in rule.waivers]
    for waiver in policy.waivers:
        is_idle = rules is not None and waiver not in used
        yield _name(waiver.rule), f"{_waiver(waiver, day)}{' · waived nothing' if is_idle else ''}"


def _waiver(waiver: Waiver, day: datetime.date) -> str:
    expired = waiver.has_expired(day)
    until = f"✗ expired on {waiver.expires}, which fails the release" if expired else f"until {waiver.expires}"
    about = _about(waiver.schemes, waiver.metrics, waiver.layers)
    where = "" if about == EVERYWHERE else f" · {about}"
    return f"{until}{where} · by {printable(waiver.owner)}: {printable(waiver.reason)}"


def _waivers_text(policy: Policy, day: datetime.date) -> str:
    expired = sum(waiver.has_expired(day) for waiver in policy.waivers)
    if not expired:
        return _count_text(len(policy.waivers), "waiver")
    return f"! {expired} of {_count_text(len(policy.waivers), 'waiver')} expired"


def _every_limit(limits: Limits | OtherLimits) -> str:
    words = {
        "format leaves ≥ {:g} %": limits.min_format_percent,
        "membership ≤ {:g} %": limits.max_membership_percent,
        "informative from {:g} points on": limits.informative_points,
    }
    parts = [limits_in_a_line(limits), *(text.format(value) for text, value in words.items() if value is not None)]
    if isinstance(limits, Limits):
        parts += ["membership only warns"] if limits.max_membership_percent is None else []
        parts.append("weights alone may pass" if limits.accept_weights_only else "weights alone never pass")
    return " · ".join(part for part in parts if part)


def _about(schemes: Iterable[str], metrics: Iterable[str] | None, layers: Iterable[str] | None) -> str:
    """Say what patterns match: "verbmem_* at nf4, fp4", or "everywhere" if they match all."""
    schemes = tuple(schemes)
    named = ", ".join(metrics or layers or ())
    at = "" if schemes == EVERYTHING else f"at {', '.join(schemes)}"
    return printable(" ".join(part for part in (named, at) if part)) or EVERYWHERE


def _count_text(count: int, what: str) -> str:
    return "" if not count else f"{count} {what}{'' if count == 1 else 's'}"


def _name(text: str) -> str:
    return printable(text, limit=LONGEST_NAME)
