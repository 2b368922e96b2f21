"""Measure one model at a time: load it, ask it, score it."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from quail_audit.core.untrusted import printable
from quail_audit.engine.audit.scheme_failures import AnyScheme
from quail_audit.runs.journal import Entry, KeptArray
from quail_audit.schema.events.audit import ArmFinished, ArmStarted, MetricScored
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event

if TYPE_CHECKING:
    from typing import Self

    from quail_audit.engine.audit.subject import Subject
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.forgetting.data.types import ForgettingData
    from quail_audit.engine.forgetting.evaluate import ArmScores


class KeptArm(Entry):
    """An arm that was scored to its end: its events without samples, and its scores by sample."""

    events: tuple[ArmStarted | MetricScored | Noted | ArmFinished, ...]
    values: dict[str, KeptArray]  # metric -> ArmScores.scores
    batch_size: int

    @classmethod
    def of(cls, events: Sequence[Any], result: ArmScores | None) -> Self | None:
        """Return the entry; None if the arm's scheme failed."""
        if result is None:
            return None
        values = {metric: KeptArray.of(found) for metric, found in result.scores.items()}
        return cls(events=tuple(events), values=values, batch_size=result.batch_size)

    def replay(self) -> Generator[Event, None, ArmScores]:
        """Yield the events; return the scores."""
        from quail_audit.engine.forgetting.evaluate import ArmScores

        yield from self.events
        means = {event.metric: event.score for event in self.events if isinstance(event, MetricScored)}
        return ArmScores(means, {metric: array.array() for metric, array in self.values.items()}, self.batch_size)


def measure_arms(subject: Subject, data: ForgettingData, work: Work) -> Generator[Event, None, dict[str, ArmScores]]:
    """Score the arms one after another; leave out those of a scheme that fails."""
    scores: dict[str, ArmScores] = {}
    for arm, (checkpoint, scheme) in subject.arms.items():
        if scheme is not None and scheme.name in subject.schemes.failed:
            continue
        measuring: Generator[Event, None, ArmScores | None] = _measure_arm(arm, checkpoint, scheme, subject, data, work)
        if scheme is not None:
            measuring = subject.schemes.run(scheme.name, measuring, work.journal, arm)
        found = yield from work.journal.once(("arm", arm), KeptArm, measuring)
        if found is not None:
            scores[arm] = found
    return scores


def _measure_arm(
    arm: str, checkpoint: Checkpoint, scheme: AnyScheme | None, subject: Subject, data: ForgettingData, work: Work
) -> Generator[Event, None, ArmScores]:
    """Score one arm with its own model, which is dropped before the next is loaded."""
    from quail_audit.engine.forgetting.evaluate import evaluate_arm
    from quail_audit.engine.forgetting.models.load import load_arm
    from quail_audit.engine.forgetting.models.nonfinite import NonfiniteLogitsError
    from quail_audit.engine.schemes.calibrated import CalibratedScheme

    if isinstance(scheme, CalibratedScheme):  # a backend's checkpoint is rounded already
        made = work.quantized[scheme.name]
        checkpoint, scheme = made["original" if arm.startswith("original/") else "unlearned"], None
    started_s = time.monotonic()
    request = work.request
    loaded = load_arm(
        checkpoint,
        scheme,
        layers=subject.pair.layers,
        device=request.device,
        dtype=request.dtype,
        tokenizer_of=subject.pair.original,
        is_tokenizer_shared=request.tokenizer == "original",
    )
    yield ArmStarted(
        arm=arm, execution=loaded.execution, device=loaded.device, dtype=loaded.dtype, reason=loaded.reason
    )
    for note in loaded.notes:
        yield Noted(message=f"{arm}: {note}")
    try:
        scores = yield from evaluate_arm(
            arm,
            loaded,
            data,
            tuple(data.samples),
            batch_size=request.batch_size,
            seed=request.seed,
            journal=work.journal.section("batch", arm),
            prompt_format=request.prompt_format,
        )
    except NonfiniteLogitsError as error:
        if scheme is None:  # else it is the scheme that breaks the model
            error.where = error.where or printable(checkpoint.source)
        raise
    elapsed_s = round(time.monotonic() - started_s, 3)
    yield ArmFinished(arm=arm, elapsed_s=elapsed_s, batch_size=scores.batch_size)
    return scores
