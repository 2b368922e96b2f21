"""Turn a policy's rules into the rows of a table, alike in every format.

Cells are not printable yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quail_audit.reports import findings, wording
from quail_audit.schema.figures import RuleOutcome
from quail_audit.schema.report import Report
from quail_audit.verdict.rules import limits_in_words

HEADINGS = ("rule", "about", "figure", "limit", "outcome")
STANDING_MARKS: Mapping[str, str] = {
    "passed": "✓ passed",
    "failed": "✗ failed",
    "waived": "~ waived",
    "known": "= no worse",
    "not judged": "? not judged",
}
STANDING_STYLES: Mapping[str, str] = {
    "passed": "green",
    "failed": "bold red",
    "waived": "yellow",
    "known": "yellow",
    "not judged": "dim",
}


@dataclass(frozen=True)
class RuleRow:
    """A rule's outcome in words."""

    rule: str
    about: str
    figure: str
    limit: str
    outcome: str

    @property
    def cells(self) -> tuple[str, ...]:
        return self.rule, self.about, self.figure, self.limit, self.outcome


def rule_row(found: RuleOutcome) -> RuleRow:
    """Return a rule's outcome as a row."""
    about = " at ".join(part for part in (_metric(found), found.scheme) if part)
    limit = limits_in_words(found.at_least, found.at_most) or wording.UNKNOWN
    return RuleRow(found.rule, about or "the audit", _figure(found), limit, STANDING_MARKS[found.standing])


def shown_rules(report: Report) -> Sequence[RuleOutcome]:
    """Return the rules for a report's table: none if there are only standard rules, which the verdict names."""
    used = report.policy
    is_plain = used is None or (used.source is None and not used.given and report.request.baseline is None)
    return () if is_plain else report.rules


def policy_title(report: Report) -> str:
    """Return in a line what the audit was judged by."""
    used, baseline = report.policy, report.request.baseline
    parts = [used.source if used is not None and used.source is not None else "the default limits"]
    if used is not None and used.given:
        parts.append("on the command line " + ", ".join(f"{name} = {value:g}" for name, value in used.given.items()))
    if baseline is not None:
        parts.append(f"only figures that got worse than in {baseline} fail")
    return "; ".join(parts)


def _metric(found: RuleOutcome) -> str:
    return "" if found.metric is None else findings.full_title(found.metric)


def _figure(found: RuleOutcome) -> str:
    if found.value is None:
        return wording.UNKNOWN
    value = _number(found.value)
    if found.low is None or found.high is None:
        return f"{found.figure} {value}"
    return f"{found.figure} {value} [{_number(found.low)} to {_number(found.high)}]"


def _number(value: float) -> str:
    return f"{value:.4g}" if value == 0.0 or 1e-4 <= abs(value) < 1e6 else f"{value:.2e}"
