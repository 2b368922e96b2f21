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
from quail_audit.schema.figures import LayerStatistics, Recovery
from quail_audit.schema.policy import Limits, Policy
from quail_audit.schema.report import FULL, Report, SchemeReport, arm_at
from quail_audit.verdict.baseline import checks_against_baseline
from quail_audit.verdict.checks import Checks, Judgement, checks_of, judgement_of
from quail_audit.verdict.comparison import caveats, compare


def judge_report(report: Report, policy: Policy, today: datetime.date, baseline: Report | None = None) -> Judgement:
    """Return the verdicts of a report by a policy.

    Args:
        report: of an audit that measured everything it could.
        policy: the policy.
        today: the day that waivers are compared with.
        baseline: an earlier run's, judged by the same policy: then only what got worse since fails.

    Raises:
        BadInputError: the policy's informative_points differ from those that the audit measured with.
    """
    checks = checks_of_report(report, policy, today)
    if baseline is None:
        return judgement_of(checks, policy, today)
    then = checks_of_report(baseline, policy, today)
    changes = compare(baseline, report)
    weights_only = not any(found.recovery for found in report.schemes.values())
    held = checks_against_baseline(checks, then, changes, policy, today, weights_only=weights_only)
    judged = judgement_of(held, policy, today)
    # both were just judged by one policy
    asked = baseline.request.model_copy(update={"policy": report.request.policy})
    notes = tuple(f"the baseline, run {baseline.run_id}: {caveat}" for caveat in caveats(asked, report.request))
    return replace(judged, notes=(*judged.notes, *notes))


def checks_of_report(report: Report, policy: Policy, today: datetime.date) -> Checks:
    """Return every check of a report by a policy; see judge_report."""
    measured = {scheme: found for scheme, found in report.schemes.items() if found.failure is None}
    return checks_of(
        {
            scheme: [layer_with_limits(layer, policy.limits.layer_limits(scheme, layer.name)) for layer in found.layers]
            for scheme, found in measured.items()
        },
        {scheme: _recoveries_with_limits(report, scheme, found, policy.limits) for scheme, found in measured.items()},
        policy,
        unmeasured_schemes(report),
        is_unlearned_stored=report.request.data is not None and f"unlearned/{FULL}" not in report.arms,
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


def _recoveries_with_limits(report: Report, scheme: str, found: SchemeReport, limits: Limits) -> dict[str, Recovery]:
    before = report.policy.effective.limits if report.policy is not None else Limits()
    judged = {}
    for metric, recovery in found.recovery.items():
        own = limits.metric_limits(scheme, metric)
        if before.metric_limits(scheme, metric).informative_points != own.informative_points:
            raise BadInputError(
                f"the run measured {metric} at {scheme} with other informative_points than {own.informative_points:g}",
                where=report.run_id,
                mend="informative_points decide while the audit measures: audit again with this policy",
            )
        scores = found.metrics.get(metric, {})
        samples = min((score.samples for score in scores.values()), default=0)
        judged[metric] = recovery_with_limits(recovery, own, samples)
    return judged


def recovery_with_limits(recovery: Recovery, limits: Limits, samples: int) -> Recovery:
    """Return a recovery with the outcome that its interval has by other limits."""
    if recovery.outcome not in ("recovered", "held", "undecided") or recovery.low is None or recovery.high is None:
        return recovery
    outcome = limits.outcome_of(recovery.low, recovery.high, samples)
    return recovery.model_copy(update={"outcome": outcome})
