"""Decide which schemes of an audit that goes on need no more items, and when to look.

The evidence is a confidence sequence (confidence.py), so it may be weighed after any number of items, and as often as
one likes. The correction for several schemes is over all of them throughout, also those that get no more items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from quail_audit.schema.policy import Policy
from quail_audit.schema.report import Report
from quail_audit.verdict.evidence import outcomes
from quail_audit.verdict.metric_kinds import DECIDING_METRICS

Decision = Literal["fails", "holds"]

# A look is worth an answer of each arm to as many items as were asked before, since each arm's model has to be loaded
# again for it: doubling keeps that to a few times, and asks at most twice the items that would have done. A model that
# knows nearly all it should have forgotten is told by 4 to 8 items. If no item is back, 29 items exclude 10 % at one
# scheme, 42 at four and 62 at thirty, so looks at 32 and 64 come just behind these.
FIRST_LOOK = 8


def looks(items: int, required: int = 0) -> Iterator[int]:
    """Yield the numbers of items after which the evidence is weighed; the last is all of them.

    Args:
        items: that there are, of the kind that has most.
        required: that the policy wants to have asked in any case.
    """
    look = FIRST_LOOK
    while look < items:
        if look >= required:
            yield look
        look *= 2
    yield items


def decisions(report: Report, policy: Policy) -> dict[str, Decision]:
    """Return the schemes that need no more items of the forget set, and why.

    A scheme fails by what is known or back, and holds if it is within the limits by every metric that decides, of which
    at least one is informative. If the policy has rules of its own for metrics, these want all items unless it fails.
    """
    has_rules = any(rule.is_of_metrics for rule in policy.rules)
    found: dict[str, Decision] = {}
    for scheme, by_metric in outcomes(report, policy.limits).items():
        told = set(by_metric.values())
        if told & {"not forgotten", "comes back"}:
            found[scheme] = "fails"
        elif not has_rules and "holds" in told and told <= {"holds", "uninformative"}:
            found[scheme] = "holds"
    return found


def required_items(policy: Policy) -> int:
    """Return how many items the policy wants of the metrics that decide."""
    return max((count for metric, count in policy.required.samples.items() if metric in DECIDING_METRICS), default=0)
