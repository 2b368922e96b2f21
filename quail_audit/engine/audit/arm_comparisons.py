"""Compare arms with each other: PrivLeak, agreement, membership."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quail_audit.schema.events.audit import KnowledgeMeasured, MetricScored
from quail_audit.schema.events.lines import Events
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.metric_kinds import MEMBERSHIP_METRICS
from quail_audit.verdict.roles import arms_at

if TYPE_CHECKING:
    from quail_audit.engine.audit.subject import Subject
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.forgetting.evaluate import ArmScores


def compare_arms(scores: Mapping[str, ArmScores], subject: Subject, work: Work) -> Events:
    """Compare the arms by all that takes more than one of them."""
    yield from _measure_privleak(scores, work.request)
    yield from _measure_agreement(scores, work.request)
    yield from _measure_membership(scores, subject, work)


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


def _measure_membership(scores: Mapping[str, ArmScores], subject: Subject, work: Work) -> Events:
    """Measure under every scheme how far membership in the forget set can be told again."""
    from quail_audit.engine.forgetting.membership import membership_knowledge

    for scheme in subject.judged:
        for metric in MEMBERSHIP_METRICS:
            values = {arm: found.scores[metric] for arm, found in scores.items() if metric in found.scores}
            arms = arms_at(values, scheme)
            if arms is not None:
                limits = work.policy.limits.metric_limits(scheme, metric)
                found = membership_knowledge(values, arms, limits.informative_points, seed=work.request.seed)
                yield KnowledgeMeasured(scheme=scheme, metric=metric, knowledge=found)
