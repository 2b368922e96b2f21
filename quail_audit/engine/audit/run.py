"""Audit a pair from its request to its verdict, as events; show nothing, store nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing

from quail_audit.core.clock import utc_now
from quail_audit.engine.audit.arm_comparisons import compare_arms
from quail_audit.engine.audit.blocks import measure_arms
from quail_audit.engine.audit.subject import open_subject
from quail_audit.engine.audit.work import Work
from quail_audit.runs.integrity.hashing import Hashing
from quail_audit.runs.journal import Journal
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import (
    FilesHashed,
    KnowledgeMeasured,
    PolicyRead,
    RunStarted,
    UtilityMeasured,
    VerdictReached,
)
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.figures import PolicyUsed
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict import checks as verdict
from quail_audit.verdict.judge import day_of, judge_report, unmeasured_schemes
from quail_audit.verdict.policy_file import read_policy_and_notes


def audit(
    request: AuditRequest,
    run_id: str,
    *,
    baseline: Report | None = None,
    started: str | None = None,
    journal: Journal | None = None,
) -> Events:
    """Measure everything the request asks for, and judge it.

    Policy, schemes, device, data and checkpoints are refused before anything is measured. One layer, and later one
    model, is in memory at a time. A scheme that fails is dropped, and the others go on.

    Results in the journal are not measured again. The events are then those of a run that was never stopped, without
    the samples of arms that were done: runs/resume.py has those from the run's events.

    Args:
        request: what to measure.
        run_id: the run's.
        baseline: the report of the run that the request names as its baseline.
        started: start time of the run being resumed (ISO 8601, UTC); None for a new run.
        journal: what was measured before, and where it is kept; None: nowhere.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    state = AuditState()
    yield from _fold(state, [RunStarted.of(request, run_id, started=started)])
    policy, policy_notes = read_policy_and_notes(request.policy, request.limits)
    used = PolicyUsed(source=request.policy, given=request.limits, effective=policy)
    yield from _fold(state, [PolicyRead(policy=used), *(Noted(message=note) for note in policy_notes)])
    if request.goes_on_from is not None:
        said = f"goes on from run {request.goes_on_from} with more items: what that measured was not measured again"
        yield from _fold(state, [Noted(message=said)])
    with closing(_measure(request, policy, journal or Journal(), state.report)) as events:
        yield from _fold(state, events)
    report = state.report()
    judged = judge_report(report, policy, day_of(report), baseline)
    for scheme, known in judged.weighed.knowledge.items():
        for metric, knowledge in known.items():
            yield KnowledgeMeasured(scheme=scheme, metric=metric, knowledge=knowledge)
    for scheme, kept in judged.weighed.utility.items():
        for metric, each in kept.items():
            yield UtilityMeasured(scheme=scheme, metric=metric, kept=each)
    for note in judged.notes:
        yield Noted(message=note)
    yield VerdictReached(verdict=judged.overall, schemes=judged.schemes, rules=judged.rules)
    yield RunFinished(finished=utc_now(), exit_code=verdict.exit_code(judged.overall, unmeasured_schemes(report)))


def _fold(state: AuditState, events: Iterable[Event]) -> Events:
    """Apply each event to the state, then yield it."""
    for event in events:
        state.apply(event)
        yield event


def _measure(request: AuditRequest, policy: Policy, journal: Journal, report: Callable[[], Report]) -> Events:
    """Measure layers and arms, while the files that they are read from are hashed."""
    from quail_audit.engine.schemes.backends.process import Scratch

    with Hashing() as hashing:
        subject, data, files = yield from open_subject(request)
        hashing.start(files)
        with Scratch() as scratch:
            work = Work(request, policy, journal, scratch, report)
            yield from subject.measure_layers(work)
            if data is not None:
                scores = yield from measure_arms(subject, data, work)
                yield from compare_arms(scores, subject, work)
        yield FilesHashed(files=(yield from hashing.wait()))
