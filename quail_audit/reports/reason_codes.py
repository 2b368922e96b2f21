"""Say what the code of each reason means, and which reasons failed, are in doubt or passed.

Codes stand in report.json, so those of older reports stay.
"""

from collections.abc import Iterable, Iterator, Mapping

from quail_audit.schema.figures import Reason, Verdict
from quail_audit.schema.report import Report

FAILED: Mapping[str, str] = {
    "comes_back": "Forgotten knowledge comes back when the unlearned model is rounded.",
    "not_forgotten": "The forget set is still known before anything is rounded.",
    "swapped": "The unlearned checkpoint knows more of the forget set than the original.",
    "utility_lost": "The deployed model lost too much of what it should keep.",
    "layers_at_risk": "Rounding erases or drowns the update of some layers.",
    "rule_failed": "A rule of the policy is not met.",
    "required_failed": "A figure that the policy requires was not measured.",
    "waiver_expired": "A waiver of the policy has expired.",
    "worse": "A figure got worse than in the baseline.",
    "recovered": "Forgotten knowledge comes back when the unlearned model is rounded.",  # of schema version 1
}
IN_DOUBT: Mapping[str, str] = {
    "not_measured": "A requested format could not be measured.",
    "undecided": "Forgotten knowledge may come back: there are too few items to tell.",
    "broken_format": "The format breaks the model, so forgetting cannot be told from damage.",
    "utility_undecided": "Too few items tell whether the model kept what it should keep.",
    "weights_only": "No layer is at risk, but forgetting was not measured.",
    "membership": "Membership in the forget set can be told again.",
    "uninformative": "No forget metric is informative: the original knew no more than the floor.",
    "no_floor": "It is not known what the unlearned model knew before it was rounded.",
    "no_rounded_arm": "The unlearned checkpoint was not given as it will be deployed.",
    "not_comparable": "Some layers are stored in two formats, so their codes cannot be compared.",
    "codes_changed": "Stored codes differ, but it cannot be told whether they carry the whole update.",
    "nothing_changed": "No rounded layer differs between the two checkpoints.",
    "rule_not_judged": "It cannot be told whether a rule of the policy is met.",
    "required_not_judged": "A figure that the policy requires could not be measured.",
    "not_all_measured": "Matrices changed that were not measured, and may hold the unlearning.",
    "layers_guessed": "Layers were found by names and shapes, and may differ from those that are rounded in use.",
    "differs_in_more_than_weights": "The checkpoints differ in more than weights, which may be what forgot.",
    "baseline_not_comparable": "The baseline measured none of these schemes.",
}
HOLDS = frozenset(
    {
        *("holds", "utility_kept", "format_kept", "membership_untold", "layers_carried"),
        *("rule_passed", "required_passed", "utility_not_measured"),
        "held",  # of schema version 1
    }
)
OF_METRICS = frozenset({"comes_back", "not_forgotten", "undecided", "holds"})  # with a row of its own for each
PASSED = HOLDS | {"waived", "known", "no_worse"}


def said_reasons(report: Report) -> tuple[Reason, ...]:
    """Return the reasons to read beside the verdict; those about one of several formats stand with that format."""
    several = len(report.schemes) > 1
    return tuple(reason for reason in _said(report.verdict) if not several or reason.scheme is None)


def scheme_reasons(report: Report, scheme: str) -> tuple[Reason, ...]:
    """Return the reasons to read with one of several formats."""
    several = len(report.schemes) > 1
    return tuple(reason for reason in _said(report.schemes[scheme].verdict) if several and reason.scheme is not None)


def _said(verdict: Verdict | None) -> tuple[Reason, ...]:
    """Return the reasons of a verdict: unless it passes, not those that hold, which the tables have."""
    if verdict is None:
        return ()
    said = tuple(reason for reason in verdict.reasons if reason.code not in HOLDS)
    return tuple(_in_groups(verdict.reasons if verdict.outcome == "pass" or not said else said))


def _in_groups(reasons: Iterable[Reason]) -> Iterator[Reason]:
    """Yield reasons; of several metrics that are in the same state at a scheme, the first and how many more."""
    groups: dict[tuple[str, str | None, object], list[Reason]] = {}
    for place, reason in enumerate(reasons):
        key = (reason.code, reason.scheme, None if reason.code in OF_METRICS else place)
        groups.setdefault(key, []).append(reason)
    for first, *others in groups.values():
        yield first
        if others:
            number = f"{len(others)} more metrics say" if len(others) > 1 else "1 more metric says"
            yield first.model_copy(update={"message": f"{number} the same: see the table"})
