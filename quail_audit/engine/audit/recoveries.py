"""Compare arms with each other: PrivLeak, agreement, recovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quail_audit.schema.events.audit import MetricScored, RecoveryMeasured
from quail_audit.schema.events.lines import Events
from quail_audit.schema.requests import AuditRequest

if TYPE_CHECKING:
    from quail_audit.engine.audit.subject import Subject
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.forgetting.evaluate import ArmScores
    from quail_audit.verdict.recovery import Role


def compare_arms(scores: Mapping[str, ArmScores], subject: Subject, work: Work) -> Events:
    """Compare the arms by all that takes more than one of them."""
    yield from _measure_privleak(scores, work.request)
    yield from _measure_agreement(scores, work.request)
    yield from _measure_recoveries(scores, subject.roles, work)


def _measure_privleak(scores: Mapping[str, ArmScores], request: AuditRequest) -> Events:
    """Measure MUSE's M3 of every arm, if the AUC of a model that never saw the forget set is known."""
    from quail_audit.engine.forgetting.metrics.privleak import relative_auc

    for metric, given_percent in (
        ("privleak", 100.0 * (request.retrain_auc or 0.0)),
        ("mia_loss", 0.0),  # the AUC that is given is of Min-40% Prob
        ("mia_confidence", 0.0),
    ):
        aucs = {arm: found.means[metric] for arm, found in scores.items() if metric in found.means}
        reference = next((auc for arm, auc in aucs.items() if arm.startswith("retrain/")), None)
        reference_percent = reference.mean if reference is not None else given_percent
        if reference_percent > 0.0:
            for arm, auc in aucs.items():
                yield MetricScored(arm=arm, metric=f"{metric}_m3", score=relative_auc(auc, reference_percent))


def _measure_agreement(scores: Mapping[str, ArmScores], request: AuditRequest) -> Events:
    """Measure how often a classifier gives the forget texts the labels that the original gives them."""
    from quail_audit.engine.forgetting.metrics.macro_f1 import agreement

    given = {arm: found.scores["macro_f1_forget"] for arm, found in scores.items() if "macro_f1_forget" in found.scores}
    original = next(
        (labels for arm, labels in given.items() if arm.startswith("original/")), None
    )  # the first as given
    for arm, labels in given.items():
        if original is not None:
            score = agreement(labels, original, seed=request.seed)
            yield MetricScored(arm=arm, metric="agreement_forget", score=score)


def _measure_recoveries(scores: Mapping[str, ArmScores], roles: Mapping[str, Mapping[Role, str]], work: Work) -> Events:
    """Measure recovery under every scheme, by every metric that says how much came back."""
    from quail_audit.engine.forgetting.recovery import recovery
    from quail_audit.verdict.recovery import DECIDING_METRICS, REPORTED_METRICS

    for scheme, arm_of in roles.items():
        measured = scores[arm_of["original/full"]].scores
        arm_named = {str(role): arm for role, arm in arm_of.items()}
        for metric in (*DECIDING_METRICS, *REPORTED_METRICS):
            if metric not in measured:
                continue
            limits = work.policy.limits.metric_limits(scheme, metric)
            found = recovery(
                metric,
                {role: scores[arm].scores[metric] for role, arm in arm_of.items() if arm in scores},
                limits,
                seed=work.request.seed,
            )
            if found.floor_arm is not None:
                found = found.model_copy(update={"floor_arm": arm_named[found.floor_arm]})
            yield RecoveryMeasured(scheme=scheme, metric=metric, recovery=found)
