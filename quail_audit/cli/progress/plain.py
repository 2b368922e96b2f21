"""Write progress as plain lines, for logs and pipes.

There is one line for each phase, and one every few seconds between.
"""

from typing import TextIO

from quail_audit.cli.progress import cure as curing
from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.findings import kept_in_brief, knowledge_in_brief
from quail_audit.reports.text import cure
from quail_audit.runs.state import AnyState
from quail_audit.runs.state.audit import HashingProgress
from quail_audit.schema.events.audit import (
    ArmStarted,
    DataRead,
    FilesAwaited,
    KnowledgeMeasured,
    LayerMeasured,
    LayerQuantized,
    MetricScored,
    PairOpened,
    RunStarted,
    SampleScored,
    SchemeFailed,
    UtilityMeasured,
    VerdictReached,
    WeightsMeasured,
)
from quail_audit.schema.events.common import CheckpointSaved, Noted
from quail_audit.schema.events.cures import (
    AttributionPlanned,
    CarryPlanned,
    CureStarted,
    LayerCarried,
    RecipeChosen,
    RecipePoint,
    UnitMeasured,
)
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted, TrainStep

SECONDS_BETWEEN_LINES = 5.0


class PlainProgress:
    """Writes a line for each event that a reader of a log would miss."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_at_s = 0.0

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""

    def update(self, event: Event, state: AnyState) -> None:
        """Write a line for one event, if it has one."""
        line = _line(event)
        frequent = isinstance(
            event,
            LayerMeasured
            | LayerQuantized
            | SampleScored
            | FilesAwaited
            | TrainStep
            | LayerCarried
            | UnitMeasured
            | RecipePoint,
        )
        if line is None or (frequent and event.at_s - self._last_at_s < SECONDS_BETWEEN_LINES):
            return
        self._last_at_s = event.at_s
        self._stream.write(f"[{wording.duration(event.at_s)}] {printable(line)}\n")
        self._stream.flush()


def _line(event: Event) -> str | None:
    match event:
        case RunStarted():
            return f"run {event.run_id}: {event.request.original} → {event.request.unlearned}"
        case PairOpened():
            return f"{event.layers} layers, {wording.count_text(event.weights)} weights"
        case DataRead():
            return "samples: " + ", ".join(f"{metric} {number}" for metric, number in event.samples.items())
        case LayerMeasured():
            return f"{event.scheme}: {event.index} of {event.total} layers"
        case LayerQuantized():
            return f"{event.scheme}: quantizing the {event.side}, {event.index} of {event.total} layers"
        case WeightsMeasured():
            summary = event.summary
            return (
                f"{event.scheme}: overlap {wording.share_text(summary.overlap)}, "
                f"survival {wording.ratio_text(summary.survival)}, {summary.layers_at_risk} layers at risk"
            )
        case ArmStarted():
            return f"{event.arm}: {event.execution} on {event.device}, {event.dtype}"
        case SampleScored():
            return f"{event.arm}: {event.done} of {event.total} samples"
        case MetricScored():
            score = wording.mean_with_interval(event.score, event.metric)
            return f"{event.arm}: {wording.metric_title(event.metric)} {score}"
        case KnowledgeMeasured():
            found = knowledge_in_brief(event.knowledge)
            return f"{event.scheme}: {wording.metric_title(event.metric)}: {event.knowledge.outcome}, {found}"
        case UtilityMeasured():
            return f"{event.scheme}: {wording.metric_title(event.metric)}: utility kept {kept_in_brief(event.kept)}"
        case FilesAwaited():
            return wording.hashing_line(HashingProgress(event, event))
        case Noted():
            return event.message
        case SchemeFailed():
            return f"{event.scheme} could not be measured: {event.message}"
        case VerdictReached():
            return f"verdict: {event.verdict.outcome}"
        case TrainingStarted():
            return f"run {event.run_id}: {event.request.objective} → {event.request.out}"
        case TrainingPlanned():
            margin = "" if event.margin_logits is None else f", margin {event.margin_logits:.4g} logits"
            weights = wording.count_text(event.weights)
            return f"{event.steps} steps on {len(event.layers)} layers, {weights} weights{margin}"
        case TrainStep():
            terms = ", ".join(f"{name} {value:.4g}" for name, value in event.terms.items())
            return f"step {event.step} of {event.total}: loss {event.loss:.4g} ({terms})"
        case TrainEval():
            scores = "; ".join(
                f"{wording.metric_title(metric)} "
                + ", ".join(f"{precision} {wording.value_text(value, metric)}" for precision, value in found.items())
                for metric, found in event.scores.items()
            )
            return f"after step {event.step}: {scores}"
        case CheckpointSaved():
            return f"saved {event.folder}"
        case CureStarted():
            return f"run {event.run_id}: {curing.headline(event.request)}"
        case CarryPlanned():
            return f"{len(event.layers)} layers, {wording.count_text(event.weights)} weights"
        case RecipePoint():
            return cure.point_line(event)
        case RecipeChosen():
            return f"chosen: {cure.point_line(event.point)}"
        case AttributionPlanned():
            return cure.fall_line(event)
        case UnitMeasured():
            return cure.unit_line(event)
        case LayerCarried():
            return f"{event.index} of {event.total}: {cure.carried_line(event)}"
    return None
