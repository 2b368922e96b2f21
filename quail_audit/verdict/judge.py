"""Judge a report by a policy, at an audit's end and in `quail policy check`.

Nothing is measured: the report's figures are compared anew with the policy's limits.
"""

from __future__ import annotations

import datetime
from dataclasses import replace

from quail_audit.core.clock import utc_of
from quail_audit.core.errors import EXIT_ENVIRONMENT, BadInputError, QuailError
from quail_audit.core.untrusted import printable
from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.policy import Limits, Policy
from quail_audit.schema.report import Report, arm_at
from quail_audit.verdict.baseline import checks_against_baseline
from quail_audit.verdict.checks import Checks, Judgement, checks_of, judgement_of
from quail_audit.verdict.comparison import caveats, compare
from quail_audit.verdict.metric_kinds import DECIDING_METRICS
from quail_audit.verdict.weighed import Weighed


def judge_report(report: Report, policy: Policy, today: datetime.date, baseline: Report | None = None) -> Judgement:
    """Return the verdicts of a report by a policy.

    Args:
        report: of an audit that measured everything it could.
        policy: the policy.
        today: the day that waivers are compared with.
        baseline: an earlier run's, judged by the same policy: then only what got worse since fails.

    Raises:
        BadInputError: a report with data is of an older Quail, which kept no items' scores.
    """
    report, weighed = weigh_report(report, policy)
    before = weigh_report(baseline, policy)[0] if baseline is not None else None
    return replace(judge_weighed(report, policy, today, before), weighed=weighed)


def judge_weighed(report: Report, policy: Policy, today: datetime.date, baseline: Report | None = None) -> Judgement:
    """Return the verdicts of a report whose figures are those that its items give by the policy; see judge_report."""
    checks = checks_of_report(report, policy, today)
    if baseline is None:
        return judgement_of(checks, policy, today)
    then = checks_of_report(baseline, policy, today)
    changes = compare(baseline, report)
    weights_only = not any(found.knowledge for found in report.schemes.values())
    held = checks_against_baseline(checks, then, changes, policy, today, weights_only=weights_only)
    judged = judgement_of(held, policy, today)
    # both were just judged by one policy
    asked = baseline.request.model_copy(update={"policy": report.request.policy})
    notes = tuple(f"the baseline, run {baseline.run_id}: {caveat}" for caveat in caveats(asked, report.request))
    return replace(judged, notes=(*judged.notes, *notes))


def weigh_report(report: Report, policy: Policy) -> tuple[Report, Weighed]:
    """Return a report with the figures that its items give by a policy's limits, and these figures.

    Raises:
        BadInputError: it has scores, but of an older Quail, which kept none of single items.
    """
    measured = {metric for found in report.schemes.values() for metric in found.knowledge}
    if measured.intersection(DECIDING_METRICS) - set(report.items):
        raise BadInputError(
            f"the run was measured by Quail {printable(report.quail_version, limit=40)}, which kept no scores of items",
            where=report.run_id,
            mend="Its verdict stands as it was given. To judge it by today's rules, audit again",
        )
    from quail_audit.verdict.evidence import weigh  # numpy: faces import this module

    weighed = weigh(report, policy.limits)
    schemes = {
        scheme: found.model_copy(
            update={
                "knowledge": {**found.knowledge, **weighed.knowledge.get(scheme, {})},
                "utility": dict(weighed.utility.get(scheme, {})),
            }
        )
        for scheme, found in report.schemes.items()
    }
    return report.model_copy(update={"schemes": schemes}), weighed


def checks_of_report(report: Report, policy: Policy, today: datetime.date) -> Checks:
    """Return every check of a report, which was weighed by a policy, by that policy."""
    measured = {scheme: found for scheme, found in report.schemes.items() if found.failure is None}
    return checks_of(
        {
            scheme: [layer_with_limits(layer, policy.limits.layer_limits(scheme, layer.name)) for layer in found.layers]
            for scheme, found in measured.items()
        },
        {scheme: found.knowledge for scheme, found in measured.items()},
        policy,
        unmeasured_schemes(report),
        utility={scheme: found.utility for scheme, found in measured.items()},
        scores={
            scheme: {
                metric: arms[arm]
                for metric, arms in found.metrics.items()
                if (arm := arm_at("unlearned", scheme)) in arms
            }
            for scheme, found in measured.items()
        },
        samples=report.samples,
        today=today,
        differences=report.differences,
        are_weights_identical=_are_weights_identical(report),
        others=report.other_tensors,
        checkpoints=report.checkpoints,
    )


def _are_weights_identical(report: Report) -> bool:
    """Return True if every tensor is known to be the same on both sides; older reports do not know."""
    others = report.other_tensors
    layers = [layer for found in report.schemes.values() for layer in found.layers]
    return (
        others is not None
        and not others.weights_changed
        and bool(layers)
        and all(layer.identical == 1.0 for layer in layers)
    )


def unmeasured_schemes(report: Report) -> tuple[SchemeFailed, ...]:
    """Return the schemes of a report that could not be measured."""
    codes = {kind.kind: kind.exit_code for kind in QuailError.__subclasses__()}
    return tuple(
        SchemeFailed(scheme=scheme, exit_code=codes.get(why.kind, EXIT_ENVIRONMENT), **why.model_dump())
        for scheme, found in report.schemes.items()
        if (why := found.failure) is not None
    )


def day_of(report: Report) -> datetime.date:
    """Return the day on which an audit started, which its own verdict takes for today.

    Raises:
        BadInputError: the report has no valid start time.
    """
    started = utc_of(report.started)
    if started is None:
        raise BadInputError(f"the report has no valid start time: {printable(report.started, limit=40)}")
    return started.date()


def layer_with_limits(layer: LayerStatistics, limits: Limits) -> LayerStatistics:
    """Return a layer with the state that its figures have by other limits. An unknown state stays unknown."""
    if layer.state in (None, "untouched"):
        return layer
    state = limits.state_of(layer.survival, layer.overlap)
    return layer.model_copy(update={"state": state, "at_risk": state != "carried"})
