"""Measure one model at a time: load it, ask it, score it."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from quail_audit.core.values import Value
from quail_audit.engine.audit.calibrated import QuantizedPairs
from quail_audit.engine.audit.scheme_failures import ActiveSchemes, AnyScheme
from quail_audit.runs.journal import Journal, KeptArray, collecting
from quail_audit.schema.events.audit import (
    ArmFinished,
    ArmStarted,
    MetricScored,
)
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.report import FULL
from quail_audit.schema.requests import AuditRequest

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.data.types import ForgettingData
    from quail_audit.engine.forgetting.evaluate import ArmScores
    from quail_audit.engine.schemes.interface import ByLayer, Scheme
    from quail_audit.verdict.recovery import Role


class KeptArm(Value):
    """An arm that was scored to its end: what it said but for its samples, and its scores by sample."""

    events: tuple[ArmStarted | MetricScored | Noted | ArmFinished, ...]
    values: dict[str, KeptArray]  # metric -> ArmScores.scores
    batch_size: int


def arms_of(pair: Pair, schemes: Sequence[AnyScheme]) -> dict[str, tuple[Checkpoint, AnyScheme | None]]:
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


def roles_of(pair: Pair, schemes: Sequence[AnyScheme]) -> dict[str, dict[Role, str]]:
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


def measure_arms(
    arms: Mapping[str, tuple[Checkpoint, AnyScheme | None]],
    attempts: ActiveSchemes,
    quantized: QuantizedPairs,
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
    arm: str, checkpoint: Checkpoint, scheme: AnyScheme | None, quantized: QuantizedPairs
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
