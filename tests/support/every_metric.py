"""A made run with every metric that an audit of a language model has, weighed as an audit weighs it."""

from collections.abc import Iterator

from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import (
    DataRead,
    KnowledgeMeasured,
    MetricScored,
    Planned,
    SampleScored,
    UtilityMeasured,
    VerdictReached,
)
from quail_audit.schema.events.lines import Event
from quail_audit.schema.policy import DEFAULT_LIMITS, Policy
from quail_audit.verdict.evidence import weigh
from quail_audit.verdict.judge import day_of, judge_report
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, retain_metrics

_ALIKE = {
    "verbmem_forget": tuple(
        f"verbmem_{score}_forget" for score in ("probability", "extraction_strength", "exact_memorization")
    ),
    "knowmem_forget": tuple(
        f"knowmem_{score}_forget" for score in ("probability", "extraction_strength", "exact_memorization")
    ),
    "privleak": ("membership_loss", "membership_zlib", "membership_min_k_plus_plus"),
}
WAYS = ("", "longer prompt", "paraphrase", "chat template")


def every_metric(made: Iterator[Event]) -> Iterator[Event]:
    """The same run, in which the other metrics of an item score it as its first one does, nearly.

    An item that is asked in the way of its number in WAYS scores highest so on the rounded unlearned model.
    """
    state = AuditState()
    for event in made:
        for told in _told(event, state):
            state.apply(told)
            yield told


def _told(event: Event, state: AuditState) -> Iterator[Event]:
    match event:
        case DataRead():
            others = {other: event.samples[metric] for metric, each in _ALIKE.items() for other in each}
            yield event.model_copy(update={"samples": event.samples | others})
        case Planned():
            yield event.model_copy(update={"samples_per_arm": event.samples_per_arm * 5 // 2})
        case SampleScored():
            way = WAYS[event.sample % 4] if event.metric in ("knowmem_forget",) and "/full" not in event.arm else ""
            yield event.model_copy(update={"way": way})
            for place, metric in enumerate(_ALIKE.get(event.metric, ())):
                score = min(100.0, max(0.0, event.score - place))
                yield event.model_copy(update={"metric": metric, "score": score, "answer": "", "way": way})
        case MetricScored():
            items = event.items
            if not items and event.metric in retain_metrics((event.metric,)):
                items = (event.score.mean,) * event.score.samples
            yield event.model_copy(update={"items": items})
            for place, metric in enumerate(_ALIKE.get(event.metric, ())):
                lower = tuple(min(100.0, max(0.0, item - place)) for item in event.items)
                kept = lower if metric in DECIDING_METRICS else ()
                yield event.model_copy(update={"metric": metric, "items": kept})
        case KnowledgeMeasured():
            if event.metric == "privleak":
                yield event
                for metric in _ALIKE["privleak"]:
                    yield event.model_copy(update={"metric": metric})
        case VerdictReached():
            found = weigh(state.report(), DEFAULT_LIMITS)
            figures: list[Event] = [
                *(
                    KnowledgeMeasured(scheme=scheme, metric=metric, knowledge=each)
                    for scheme, known in found.knowledge.items()
                    for metric, each in known.items()
                ),
                *(
                    UtilityMeasured(scheme=scheme, metric=metric, kept=each)
                    for scheme, kept in found.utility.items()
                    for metric, each in kept.items()
                ),
            ]
            for figure in figures:
                state.apply(figure)
            yield from figures
            report = state.report()
            judged = judge_report(report, Policy(), day_of(report))
            update = {"verdict": judged.overall, "schemes": judged.schemes, "rules": judged.rules}
            yield event.model_copy(update=update)
        case _:
            yield event
