"""Measure one model at a time: load it, ask it, score it."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from quail_audit.core.untrusted import printable
from quail_audit.core.values import Value
from quail_audit.engine.audit.scheme_failures import AnyScheme
from quail_audit.runs.journal import Journal, KeptArray, collect, pass_on
from quail_audit.schema.events.audit import ArmFinished, ArmStarted, MetricScored, SampleScored
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, Events

if TYPE_CHECKING:
    from quail_audit.engine.audit.subject import Subject
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.forgetting.data.types import ForgettingData
    from quail_audit.engine.forgetting.evaluate import ArmScores

EVERYTHING = "everything"
R = TypeVar("R")


class KeptBlock(Value):
    """A block of items that an arm was asked to its end.

    Attributes:
        events: but samples.
        samples: none, unless the audit may go on with more items later.
        values: metric -> ArmScores.scores of the metrics that were asked, with those of earlier blocks.
        end: the place, in the order asked, up to which items were asked.
        batch_size: of ArmScores.
        asked: how many samples were scored.
    """

    events: tuple[ArmStarted | MetricScored | Noted | ArmFinished, ...]
    samples: tuple[SampleScored, ...] = ()
    values: dict[str, KeptArray]
    end: int
    batch_size: int
    asked: int

    def replay_block(self, earlier: ArmScores, total: int, *, is_last: bool) -> Generator[Event, None, ArmScores]:
        """Yield the events; return the scores.

        Args:
            earlier: of the blocks before it.
            total: samples of the arm, now that there may be more.
            is_last: no block follows; else only what adds up with the next is said, as all else is measured anew.
        """
        from quail_audit.engine.forgetting.evaluate import ArmScores, adds_up

        means, done = dict(earlier.means), earlier.samples
        for event in self.events:
            if isinstance(event, MetricScored):
                if not is_last and not adds_up(event.metric):
                    continue
                means[event.metric] = event.score
                for sample in self.samples:
                    if sample.metric == event.metric:
                        done += 1
                        yield sample.model_copy(update={"done": done, "total": total})
            yield event
        values = {metric: array.array() for metric, array in self.values.items() if is_last or adds_up(metric)}
        done = done if self.samples else earlier.samples + self.asked
        return ArmScores(means, {**earlier.scores, **values}, self.batch_size, done)


@dataclass(eq=False)
class Asking:
    """The arms of an audit as far as they were asked.

    Attributes:
        subject, data, work: the audit's.
        scores: arm -> what was found so far.
        ends: (arm, group of metrics) -> the place, in the order asked, up to which items were asked.
        notes: what was said of the arms.
    """

    subject: Subject
    data: ForgettingData
    work: Work
    scores: dict[str, ArmScores] = field(default_factory=dict)
    ends: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def ask(self, arm: str, end: int, metrics: Sequence[str], group: str = EVERYTHING) -> Events:
        """Ask an arm the items that it was not asked yet, up to a place in the order asked.

        A block that the journal holds is not asked again. An arm whose scheme fails is left out from then on.

        Args:
            arm: one of the subject's.
            end: the place.
            metrics: to measure; the same for each block of a group.
            group: names the metrics.
        """
        from quail_audit.engine.forgetting.evaluate import NOTHING

        total = sum(self.data.samples.values())
        while self.ends.get((arm, group), 0) < end and not self._has_failed(arm):
            start, earlier = self.ends.get((arm, group), 0), self.scores.get(arm, NOTHING)
            kept = self.work.journal.find(KeptBlock, "arm", arm, group, str(start))
            if kept is not None:
                replayed = kept.replay_block(earlier, total, is_last=kept.end >= end)
                self.scores[arm] = yield from self._noting(replayed)
                self.ends[arm, group] = kept.end
                continue
            found = yield from self._measure(arm, group, metrics, (start, end), earlier)
            if found is None:
                self.scores.pop(arm, None)
                return
            self.scores[arm], self.ends[arm, group] = found, end

    def _has_failed(self, arm: str) -> bool:
        _, scheme = self.subject.arms.get(arm, (None, None))
        return arm not in self.subject.arms or (scheme is not None and scheme.name in self.subject.schemes.failed)

    def _measure(
        self, arm: str, group: str, metrics: Sequence[str], block: tuple[int, int], earlier: ArmScores
    ) -> Generator[Event, None, ArmScores | None]:
        """Measure a block and keep it; return None if the arm's scheme failed."""
        checkpoint, scheme = self.subject.arms[arm]
        journal, key = self.work.journal, (arm, group, str(block[0]))
        measuring: Generator[Event, None, ArmScores | None] = self._noting(
            _measure_block(arm, checkpoint, scheme, self, metrics, block, earlier, journal.section("batch", *key))
        )
        if scheme is not None:
            measuring = self.subject.schemes.run(scheme.name, measuring, journal, arm)
        events: list[Any] = []
        samples: list[SampleScored] = []
        may_go_on = self.work.request.max_samples is not None
        found = yield from collect(measuring, events, samples if may_go_on else None)
        if found is not None:
            entry = KeptBlock(
                events=tuple(events),
                samples=tuple(samples),
                values={metric: KeptArray.of(found.scores[metric]) for metric in metrics if metric in found.scores},
                end=block[1],
                batch_size=found.batch_size,
                asked=found.samples - earlier.samples,
            )
            journal.keep(entry, "arm", *key)
        return found

    def _noting(self, events: Generator[Event, None, R]) -> Generator[Event, None, R]:
        """Pass events on, but each note only once."""

        def is_new(event: Event) -> bool:
            if not isinstance(event, Noted):
                return True
            is_first = event.message not in self.notes
            self.notes.add(event.message)
            return is_first

        return pass_on(events, is_new)


def _measure_block(
    arm: str,
    checkpoint: Checkpoint,
    scheme: AnyScheme | None,
    asking: Asking,
    metrics: Sequence[str],
    block: tuple[int, int],
    earlier: ArmScores,
    journal: Journal,
) -> Generator[Event, None, ArmScores]:
    """Score a block of one arm with its own model, which is dropped before the next is loaded."""
    from quail_audit.engine.forgetting.evaluate import evaluate_arm
    from quail_audit.engine.forgetting.models.load import load_arm
    from quail_audit.engine.forgetting.models.nonfinite import NonfiniteLogitsError
    from quail_audit.engine.schemes.calibrated import CalibratedScheme

    subject, work = asking.subject, asking.work
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
            asking.data,
            metrics,
            batch_size=request.batch_size,
            seed=request.seed,
            journal=journal,
            block=block,
            earlier=earlier,
            prompt_format=request.prompt_format,
        )
    except NonfiniteLogitsError as error:
        if scheme is None:  # else it is the scheme that breaks the model
            error.where = error.where or printable(checkpoint.source)
        raise
    elapsed_s = round(time.monotonic() - started_s, 3)
    yield ArmFinished(arm=arm, elapsed_s=elapsed_s, batch_size=scores.batch_size)
    return scores
