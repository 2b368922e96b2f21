"""An audit from its request to its verdict, as an iterator of events. Shows nothing, stores nothing."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from quail_audit.core.clock import utc_now
from quail_audit.engine.audit.arms import arms_of, measure_arms, roles_of
from quail_audit.engine.audit.calibrated import measure_calibrated
from quail_audit.engine.audit.input_files import checkpoint_files, given_files
from quail_audit.engine.audit.layers import Layers, measure_weights, refuse_nonfinite
from quail_audit.engine.audit.recoveries import measure_agreement, measure_privleak, measure_recoveries
from quail_audit.engine.audit.scheme_failures import ActiveSchemes, AnyScheme, find_schemes
from quail_audit.engine.audit.stored import measure_stored, stored_pair
from quail_audit.runs.integrity.hashing import Hashing
from quail_audit.runs.journal import Journal
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import (
    DataRead,
    FilesFound,
    FilesHashed,
    PairOpened,
    Planned,
    PolicyRead,
    RunStarted,
    VerdictReached,
)
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.lines import Events
from quail_audit.schema.figures import PolicyUsed
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict import checks as verdict
from quail_audit.verdict.judge import day_of, judge_report, unmeasured_schemes
from quail_audit.verdict.policy_file import read_policy

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint


def audit(
    request: AuditRequest,
    run_id: str,
    *,
    baseline: Report | None = None,
    started: str | None = None,
    journal: Journal | None = None,
) -> Events:
    """Measure everything the request asks for, and judge it.

    What can be refused is refused first: policy, schemes, device, data and checkpoints, before anything is measured.
    One layer, and later one model, is in memory at a time. A scheme that fails is left out, and the others go on.

    What the journal holds is not measured again. The events are then those of a run that was never stopped, but for
    the samples of arms that were done: those are left out (resuming.py has them from the run's events).

    Args:
        request: what to measure.
        run_id: of the run.
        baseline: the report of the run that the request names as its baseline.
        started: when the run started, of one that goes on: ISO 8601, UTC; None: now.
        journal: what was measured before, and where it is kept; None: nowhere.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    first = RunStarted.of(request, run_id, started=started)
    yield first
    policy = read_policy(request.policy, request.limits)
    read = PolicyRead(policy=PolicyUsed(source=request.policy, given=request.limits, effective=policy))
    state = AuditState()
    state.apply(first)
    state.apply(read)
    yield read
    with closing(_measure_and_hash(request, policy, journal or Journal())) as events:
        for event in events:
            state.apply(event)
            yield event
    report = state.report()
    reached = judge_report(report, policy, day_of(report), baseline)
    for note in reached.notes:
        yield Noted(message=note)
    yield VerdictReached(verdict=reached.overall, schemes=reached.schemes, rules=reached.rules)
    yield RunFinished(finished=utc_now(), exit_code=verdict.exit_code(reached.overall, unmeasured_schemes(report)))


def _measure_and_hash(request: AuditRequest, policy: Policy, journal: Journal) -> Events:
    """Everything between a policy and a verdict, while the files that it is measured on are hashed."""
    with Hashing() as hashing:
        yield from _measure(request, policy, hashing, journal)
        yield FilesHashed(files=(yield from hashing.wait()))


def _measure(request: AuditRequest, policy: Policy, hashing: Hashing, journal: Journal) -> Events:
    """Measure what was asked for; starts the hashing when it is known which files there are."""
    from quail_audit.engine.checkpoints.pair import open_pair  # seconds to import, as is all that touches weights
    from quail_audit.engine.forgetting.data.rows import Columns
    from quail_audit.engine.forgetting.measurable import fit_data, read_data
    from quail_audit.engine.forgetting.models.device import find_device, find_dtype
    from quail_audit.engine.schemes.backends.process import Scratch

    attempts = yield from find_schemes(request.schemes)
    device = find_device(request.device)
    find_dtype(request.dtype)
    places = list(given_files(request, calibrated=bool(attempts.calibrated)))
    data = None
    if request.data is not None:
        columns = Columns(request.text_column, request.label_column)
        data = read_data(request.data, metrics=request.metrics, max_samples=request.max_samples, columns=columns)
    pair = open_pair(request.original, request.unlearned, request.retrain, request.skip_modules)
    stored = stored_pair(pair, request.schemes)
    if stored is not None:
        attempts = ActiveSchemes(() if stored.rounding is None else (stored.rounding,))
    if data is not None:
        data = fit_data(data, *(one for one in (pair.original, pair.unlearned, pair.retrain) if one is not None))
    yield PairOpened(
        original=pair.original.facts,
        unlearned=pair.unlearned.facts,
        retrain=pair.retrain.facts if pair.retrain else None,
        layers=len(pair.layers),
        weights=sum(layer.weights for layer in pair.layers),
        left_in_full_precision=pair.left_in_full_precision,
        notes=(*pair.notes, *(stored.notes if stored is not None else ())),
    )
    if data is not None:
        yield DataRead(samples=data.samples, skipped=data.skipped)
        for note in data.notes:
            yield Noted(message=note)
    arms: dict[str, tuple[Checkpoint, AnyScheme | None]] = {}
    if data is not None:
        arms = {**stored.arms} if stored is not None else arms_of(pair, attempts.going)
    yield Planned(
        layers=len(pair.layers),
        arms=tuple(arms),
        samples_per_arm=sum(data.samples.values()) if data is not None else 0,
        stored_as=stored.name if stored is not None else None,
    )
    places += checkpoint_files(pair)
    yield FilesFound(files=tuple(place.found for place in places))
    hashing.start(places)

    layers: Layers
    if stored is not None:
        layers = {stored.name: (yield from measure_stored(stored, policy, journal))}
        refuse_nonfinite(layers[stored.name], pair)
    else:
        layers = yield from measure_weights(pair, attempts, policy, device, journal)
    with Scratch() as scratch:
        quantized = yield from measure_calibrated(
            pair, attempts, layers, policy, request, str(device), scratch, tuple(arms), journal
        )
        if data is not None:
            scores = yield from measure_arms(arms, attempts, quantized, pair, data, request, journal)
            yield from measure_privleak(scores, request)
            yield from measure_agreement(scores, request)
            roles = {stored.name: stored.roles} if stored is not None else roles_of(pair, attempts.going)
            yield from measure_recoveries(scores, roles, policy, request)
