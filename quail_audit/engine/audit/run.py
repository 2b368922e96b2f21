"""An audit from its request to its verdict, as an iterator of events. Shows nothing, stores nothing."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import quail_audit
from quail_audit.core.clock import utc_now
from quail_audit.core.errors import BadInputError, EnvironmentProblemError, UsageError
from quail_audit.core.machine import describe_environment, usable_cores
from quail_audit.core.values import Model
from quail_audit.engine.audit.calibrated import (
    QuantizedPair,
    calibration_rows,
    kept_quantized,
    measure_quantized,
    quantize_pair,
)
from quail_audit.engine.audit.input_files import checkpoint_files, given_files
from quail_audit.engine.audit.scheme_failures import AnyScheme, Attempts
from quail_audit.engine.audit.stored import measure_stored, stored_pair
from quail_audit.runs.integrity.hashing import Hashing
from quail_audit.runs.journal import Journal, KeptArray, collecting
from quail_audit.runs.state.audit import RunState
from quail_audit.schema.events.audit import (
    ArmFinished,
    ArmStarted,
    DataRead,
    FilesFound,
    FilesHashed,
    LayerMeasured,
    MetricScored,
    PairOpened,
    Planned,
    PolicyRead,
    RecoveryMeasured,
    RunStarted,
    VerdictReached,
    WeightsMeasured,
)
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import LayerStatistics, PolicyUsed
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import FULL, Report
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict import checks as verdict
from quail_audit.verdict.judge import day_of, judge_report, unmeasured
from quail_audit.verdict.policy_file import read_policy

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.evaluate import ArmScores
    from quail_audit.engine.forgetting.metrics.interface import ForgettingData
    from quail_audit.engine.forgetting.recovery import Role
    from quail_audit.engine.schemes.backends.process import Scratch
    from quail_audit.engine.schemes.calibrated import CalibratedScheme
    from quail_audit.engine.schemes.interface import ByLayer, Scheme
    from quail_audit.engine.weights.pair import MatrixPair, PairSums


Quantized = dict[str, QuantizedPair]  # calibrated scheme -> both checkpoints as its backend wrote them
Events = Generator[Event, None, None]
Layers = dict[str, list[LayerStatistics]]  # scheme -> its layers


class KeptArm(Model):
    """An arm that was scored to its end: what it said but for its samples, and its scores by sample."""

    events: tuple[ArmStarted | MetricScored | Noted | ArmFinished, ...]
    values: dict[str, KeptArray]  # metric -> ArmScores.scores
    batch_size: int


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
    first = RunStarted(
        quail_version=quail_audit.__version__,
        run_id=run_id,
        started=started or utc_now(),
        request=request,
        environment=describe_environment(),
    )
    yield first
    policy = read_policy(request.policy, request.limits)
    read = PolicyRead(policy=PolicyUsed(source=request.policy, given=request.limits, effective=policy))
    state = RunState()
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
    yield RunFinished(finished=utc_now(), exit_code=verdict.exit_code(reached.overall, unmeasured(report)))


def _measure_and_hash(request: AuditRequest, policy: Policy, journal: Journal) -> Events:
    """Everything between a policy and a verdict, while the files that it is measured on are hashed."""
    with Hashing() as hashing:
        yield from _measure(request, policy, hashing, journal)
        yield FilesHashed(files=(yield from hashing.wait()))


def _measure(request: AuditRequest, policy: Policy, hashing: Hashing, journal: Journal) -> Events:
    """Measure what was asked for; starts the hashing when it is known which files there are."""
    from quail_audit.engine.checkpoints.pair import open_pair  # seconds to import, as is all that touches weights
    from quail_audit.engine.forgetting.data.folder import Columns, read_data
    from quail_audit.engine.forgetting.data.labels import fit_data
    from quail_audit.engine.forgetting.models.load import find_device, find_dtype
    from quail_audit.engine.schemes.backends.process import Scratch

    attempts = yield from _find_schemes(request.schemes)
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
        attempts = Attempts(() if stored.rounding is None else (stored.rounding,))
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
        arms = {**stored.arms} if stored is not None else _arms(pair, attempts.going)
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
        _refuse_nonfinite(layers[stored.name], pair)
    else:
        layers = yield from _measure_weights(pair, attempts, policy, device, journal)
    with Scratch() as scratch:
        quantized = yield from _measure_calibrated(
            pair, attempts, layers, policy, request, str(device), scratch, tuple(arms), journal
        )
        if data is not None:
            scores = yield from _measure_arms(arms, attempts, quantized, pair, data, request, journal)
            yield from _measure_privleak(scores, request)
            yield from _measure_agreement(scores, request)
            roles = {stored.name: stored.roles} if stored is not None else _roles(pair, attempts.going)
            yield from _measure_recoveries(scores, roles, policy, request)


def _find_schemes(names: Sequence[str]) -> Generator[Event, None, Attempts]:
    """The schemes that this machine can run; of the others, what they lack.

    Raises:
        UsageError: a name is no scheme's.
        EnvironmentProblemError: not one of them can run.
    """
    from quail_audit.engine.schemes.registry import audited_scheme

    found: list[AnyScheme] = []
    lacking = {}
    for name in names:
        try:
            found.append(audited_scheme(name))
        except EnvironmentProblemError as error:
            lacking[name] = error
    attempts = Attempts(tuple(found))
    for name, why in lacking.items():
        yield from attempts.give_up(name, why)
    return attempts


def _arms(pair: Pair, schemes: Sequence[AnyScheme]) -> dict[str, tuple[Checkpoint, AnyScheme | None]]:
    """What is measured, in order: the arms in full precision, which say whether there is anything to recover, first."""
    arms: dict[str, tuple[Checkpoint, AnyScheme | None]] = {
        f"original/{FULL}": (pair.original, None),
        f"unlearned/{FULL}": (pair.unlearned, None),
    }
    if pair.retrain is not None:
        arms[_retrain_arm(pair.retrain)] = (pair.retrain, None)
    for scheme in schemes:
        arms[f"original/{scheme.name}"] = (pair.original, scheme)
        arms[f"unlearned/{scheme.name}"] = (pair.unlearned, scheme)
    return arms


def _retrain_arm(retrain: Checkpoint) -> str:
    """A reference that is quantized already is measured as it is stored."""
    return f"retrain/{retrain.scheme or FULL}"


def _roles(pair: Pair, schemes: Sequence[AnyScheme]) -> dict[str, dict[Role, str]]:
    """Scheme -> which arm recovery takes for what."""
    roles: dict[str, dict[Role, str]] = {}
    for scheme in schemes:
        roles[scheme.name] = {
            "original/full": f"original/{FULL}",
            "unlearned/full": f"unlearned/{FULL}",
            "unlearned/quantized": f"unlearned/{scheme.name}",
        }
        if pair.retrain is not None:
            roles[scheme.name]["retrain/full"] = _retrain_arm(pair.retrain)
    return roles


def _measure_weights(
    pair: Pair, attempts: Attempts, policy: Policy, device: torch.device, journal: Journal
) -> Generator[Event, None, Layers]:
    """Read each layer once and measure it under every scheme that rounds it and looks at nothing else.

    Raises:
        BadInputError: weights that are not finite, after every layer has been measured.
        UsageError: no scheme rounds any layer.
    """
    from quail_audit.engine.audit.kept_layers import keep_layer, kept_layer
    from quail_audit.engine.weights.pair import MatrixPair, PairSums, layer_detail, layer_statistics, summarize

    layers: Layers = {scheme.name: [] for scheme in attempts.data_free}
    totals = {scheme.name: PairSums() for scheme in attempts.data_free}
    yield from _say_what_is_left_alone(pair, attempts)
    if not attempts.data_free:
        return layers
    for index, layer in enumerate(pair.layers, start=1):
        before = kept_layer(journal, PairSums, layer.name)
        if before is not None:
            for event, sums in before:
                totals[event.scheme] += sums
                layers[event.scheme].append(event.layer)
                yield event
            continue
        rounding = [scheme for scheme in attempts.data_free if not scheme.why_not(*layer.shape)]
        original, unlearned = (weight.to(device) for weight in pair.read(layer))
        matrices = MatrixPair(original, unlearned, rounding, threads=usable_cores())
        found: list[tuple[LayerMeasured, PairSums]] = []
        for scheme in rounding:
            under = yield from attempts.work(scheme.name, _sums_under(scheme, matrices), journal, layer.name)
            if under is None:
                continue
            totals[scheme.name] += under
            limits = policy.limits.of_layer(scheme.name, layer.name)
            measured = layer_statistics(under, name=layer.name, block=layer.block, role=layer.role, limits=limits)
            layers[scheme.name].append(measured)
            event = LayerMeasured(
                scheme=scheme.name,
                index=index,
                total=len(pair.layers),
                layer=measured,
                detail=layer_detail(under),
            )
            found.append((event, under))
            yield event
        del original, unlearned, matrices  # before the next is read, so that never two layers are in memory
        if len(found) == len(rounding):  # one at which a scheme failed is measured again, and the failure said again
            keep_layer(journal, found, layer.name)
    for scheme in attempts.data_free:
        yield WeightsMeasured(scheme=scheme.name, summary=summarize(totals[scheme.name], layers[scheme.name]))
    measured_once = {layer.name: layer for scheme in attempts.data_free for layer in layers[scheme.name]}
    _refuse_nonfinite(tuple(measured_once.values()), pair)
    return layers


def _sums_under(scheme: Scheme, matrices: MatrixPair) -> Generator[Event, None, PairSums]:
    yield from ()  # a matrix is measured at once
    return matrices.sums_under(scheme)


def _say_what_is_left_alone(pair: Pair, attempts: Attempts) -> Events:
    """Name the layers that a scheme leaves in full precision, as its library does; give up one that rounds none."""
    for scheme in attempts.data_free:
        reasons = {layer.name: why for layer in pair.layers if (why := scheme.why_not(*layer.shape))}
        if not reasons:
            continue
        why = next(iter(reasons.values()))
        if len(reasons) == len(pair.layers):
            error = UsageError(
                f"{scheme.name} rounds none of the {len(reasons)} layers: {why}",
                where="--scheme",
                mend="Choose another scheme: quail schemes lists them",
            )
            yield from attempts.give_up(scheme.name, error, pair.layers[0].name)
            continue
        names = ", ".join(list(reasons)[:3]) + (", …" if len(reasons) > 3 else "")
        share = f"{len(reasons)} of {len(pair.layers)} layers"
        yield Noted(message=f"{scheme.name} leaves {share} in full precision: {names} ({why})")


def _measure_calibrated(
    pair: Pair,
    attempts: Attempts,
    layers: Layers,
    policy: Policy,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
    arms: Sequence[str],
    journal: Journal,
) -> Generator[Event, None, Quantized]:
    """Quantize both checkpoints under every calibrated scheme, and measure their layers, which are added to layers.

    A scheme of which every layer and every arm is in the journal is not quantized again.
    """
    quantized: Quantized = {}
    for scheme in attempts.calibrated:
        own = [arm for arm in arms if arm.rpartition("/")[2] == scheme.name]
        work = _calibrated(pair, scheme, own, policy, request, device, scratch, journal)
        found = yield from attempts.work(scheme.name, work, journal)
        if found is None:
            continue
        layers[scheme.name], made = found
        if made is not None:
            quantized[scheme.name] = made
    return quantized


def _calibrated(
    pair: Pair,
    scheme: CalibratedScheme,
    arms: Sequence[str],
    policy: Policy,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
    journal: Journal,
) -> Generator[Event, None, tuple[list[LayerStatistics], QuantizedPair | None]]:
    """Quantize both checkpoints under one scheme and measure their layers; no checkpoints where no arm needs them."""
    before = kept_quantized(journal, scheme, pair)
    if before is not None and all(journal.holds("arm", arm) for arm in arms):
        yield from before.events
        return (yield from measure_quantized(scheme, pair, frozenset(before.left), None, policy, journal)), None
    scheme.backend(device)  # before any text is read
    rows = calibration_rows(pair, request)
    made = yield from quantize_pair(scheme, pair, rows, request, device, scratch, journal)
    return (yield from measure_quantized(scheme, pair, made.left, made, policy, journal)), made


def _refuse_nonfinite(layers: Sequence[LayerStatistics], pair: Pair) -> None:
    spoilt = [layer for layer in layers if layer.nonfinite_original or layer.nonfinite_unlearned]
    if not spoilt:
        return
    original = sum(layer.nonfinite_original for layer in spoilt)
    unlearned = sum(layer.nonfinite_unlearned for layer in spoilt)
    sides = [(original, pair.original.source), (unlearned, pair.unlearned.source)]
    where = " and ".join(source for count, source in sides if count)
    names = ", ".join(layer.name for layer in spoilt[:3]) + (", …" if len(spoilt) > 3 else "")
    raise BadInputError(
        f"{original + unlearned} weights are NaN or infinite, in {len(spoilt)} layers: {names}",
        where=where,
        mend="Such a model cannot be deployed; the other layers were measured and are in the run's folder",
    )


def _measure_arms(
    arms: Mapping[str, tuple[Checkpoint, AnyScheme | None]],
    attempts: Attempts,
    quantized: Quantized,
    pair: Pair,
    data: ForgettingData,
    request: AuditRequest,
    journal: Journal,
) -> Generator[Event, None, dict[str, ArmScores]]:
    """Score the arms one after another; those of a scheme that fails are left out, as are models of arms kept."""
    scores: dict[str, ArmScores] = {}
    for arm, (checkpoint, scheme) in arms.items():
        if scheme is not None and scheme.name in attempts.failed:
            continue
        before = journal.find(KeptArm, "arm", arm)
        if before is not None:
            yield from before.events
            scores[arm] = _scores_of(before)
            continue
        work = _measure_arm(arm, *_deployed(arm, checkpoint, scheme, quantized), pair, data, request, journal)
        found = (yield from work) if scheme is None else (yield from attempts.work(scheme.name, work, journal, arm))
        if found is not None:
            scores[arm] = found
    return scores


def _deployed(
    arm: str, checkpoint: Checkpoint, scheme: AnyScheme | None, quantized: Quantized
) -> tuple[Checkpoint, Scheme | ByLayer | None]:
    """What an arm is loaded from, and what rounds it then; a backend's checkpoint is rounded already."""
    from quail_audit.engine.schemes.calibrated import CalibratedScheme

    if not isinstance(scheme, CalibratedScheme):
        return checkpoint, scheme
    made = quantized[scheme.name]
    return (made.original if arm.startswith("original/") else made.unlearned), None


def _scores_of(kept: KeptArm) -> ArmScores:
    from quail_audit.engine.forgetting.evaluate import ArmScores

    means = {event.metric: event.score for event in kept.events if isinstance(event, MetricScored)}
    return ArmScores(means, {metric: array.array() for metric, array in kept.values.items()}, kept.batch_size)


def _measure_arm(
    arm: str,
    checkpoint: Checkpoint,
    scheme: Scheme | ByLayer | None,
    pair: Pair,
    data: ForgettingData,
    request: AuditRequest,
    journal: Journal,
) -> Generator[Event, None, ArmScores]:
    """Score one arm with its own model, which is dropped before the next is loaded."""
    from quail_audit.engine.forgetting.evaluate import evaluate_arm
    from quail_audit.engine.forgetting.models.batches import KeptBatches
    from quail_audit.engine.forgetting.models.load import load_arm

    started_s = time.monotonic()
    loaded = load_arm(
        checkpoint,
        scheme,
        layers=pair.layers,
        device=request.device,
        dtype=request.dtype,
        tokenizer_of=pair.original,
    )
    said: list[ArmStarted | MetricScored | Noted | ArmFinished] = [
        ArmStarted(
            arm=arm,
            execution=loaded.execution,
            device=loaded.device,
            dtype=loaded.dtype,
            reason=loaded.reason,
        ),
        *(Noted(message=f"{arm}: {note}") for note in loaded.notes),
    ]
    yield from said
    evaluation = evaluate_arm(
        arm,
        loaded,
        data,
        tuple(data.samples),
        batch_size=request.batch_size,
        seed=request.seed,
        kept=KeptBatches(journal, arm),
    )
    scores = yield from collecting(evaluation, (MetricScored, Noted), said)
    elapsed_s = round(time.monotonic() - started_s, 3)
    said.append(ArmFinished(arm=arm, elapsed_s=elapsed_s, batch_size=scores.batch_size))
    yield said[-1]
    values = {metric: KeptArray.of(found) for metric, found in scores.scores.items()}
    journal.keep(KeptArm(events=tuple(said), values=values, batch_size=scores.batch_size), "arm", arm)
    return scores


def _measure_privleak(scores: Mapping[str, ArmScores], request: AuditRequest) -> Events:
    """MUSE's M3 of every arm, where the AUC of a model that never saw the forget set is known."""
    from quail_audit.engine.forgetting.metrics.privleak import relative_to

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
                yield MetricScored(arm=arm, metric=f"{metric}_m3", score=relative_to(auc, reference_percent))


def _measure_agreement(scores: Mapping[str, ArmScores], request: AuditRequest) -> Events:
    """How often a classifier gives the forget texts the labels that the original gives them."""
    from quail_audit.engine.forgetting.metrics.macro_f1 import agreement

    given = {arm: found.scores["macro_f1_forget"] for arm, found in scores.items() if "macro_f1_forget" in found.scores}
    original = next(
        (labels for arm, labels in given.items() if arm.startswith("original/")), None
    )  # the first as given
    for arm, labels in given.items():
        if original is not None:
            score = agreement(labels, original, seed=request.seed)
            yield MetricScored(arm=arm, metric="agreement_forget", score=score)


def _measure_recoveries(
    scores: Mapping[str, ArmScores], roles: Mapping[str, Mapping[Role, str]], policy: Policy, request: AuditRequest
) -> Events:
    """Compare the arms, metric by metric, for every metric that says how much came back."""
    from quail_audit.engine.forgetting.recovery import DECIDING_METRICS, REPORTED_METRICS, recovery

    for scheme, arm_of in roles.items():
        measured = scores[arm_of["original/full"]].scores
        arm_named = {str(role): arm for role, arm in arm_of.items()}
        for metric in (*DECIDING_METRICS, *REPORTED_METRICS):
            if metric not in measured:
                continue
            limits = policy.limits.of_metric(scheme, metric)
            found = recovery(
                metric,
                {role: scores[arm].scores[metric] for role, arm in arm_of.items() if arm in scores},
                limit_percent=limits.max_recovery_percent,
                informative_points=limits.informative_points,
                seed=request.seed,
            )
            if found.floor_arm is not None:
                found = found.model_copy(update={"floor_arm": arm_named[found.floor_arm]})
            yield RecoveryMeasured(scheme=scheme, metric=metric, recovery=found)
