"""Find the samples that came back most at a scheme, with every arm's answer.

Texts are not printable yet. A run's events are read twice, first for the scores, then for the texts of the few samples
that are shown, so that memory depends on the number of samples, not on their length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.events.lines import Event
from quail_audit.schema.report import FULL


@dataclass(frozen=True)
class WorstSample:
    """One sample of a forget metric.

    Attributes:
        metric: the metric's name.
        number: the sample's place in the data file, from 0.
        prompt, truth: the sample's texts.
        scores: arm -> score, in the metric's own unit.
        answers: arm -> text.
    """

    metric: str
    number: int
    prompt: str
    truth: str
    scores: dict[str, float]
    answers: dict[str, str]


def worst_samples(events: Callable[[], Iterable[Event]], scheme: str, *, most: int) -> list[WorstSample]:
    """Return the samples whose score rose most from unlearned/full to unlearned/<scheme>, the worst first.

    Args:
        events: returns the run's events from the first on, each time it is called.
        scheme: the scheme at which they came back.
        most: the most samples to return.
    """
    before, after = f"unlearned/{FULL}", f"unlearned/{scheme}"
    arms = (f"original/{FULL}", before, after, f"retrain/{FULL}")
    scores: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for event in events():
        if isinstance(event, SampleScored) and event.arm in arms and _has_forget_answers(event.metric):
            scores[event.metric, event.sample][event.arm] = event.score
    rises = {key: found[after] - found[before] for key, found in scores.items() if {before, after} <= found.keys()}
    chosen = sorted((key for key in rises if rises[key] > 0.0), key=lambda key: (-rises[key], key))[:most]
    texts: dict[tuple[str, int], dict[str, SampleScored]] = {key: {} for key in chosen}
    for event in events():
        if isinstance(event, SampleScored) and event.arm in arms and (event.metric, event.sample) in texts:
            texts[event.metric, event.sample][event.arm] = event
    return [
        WorstSample(
            metric=metric,
            number=number,
            prompt=texts[metric, number][after].prompt,
            truth=texts[metric, number][after].truth,
            scores={arm: scores[metric, number][arm] for arm in arms if arm in texts[metric, number]},
            answers={arm: texts[metric, number][arm].answer for arm in arms if arm in texts[metric, number]},
        )
        for metric, number in chosen
    ]


def _has_forget_answers(metric: str) -> bool:
    """Return whether a metric has answers about the forget set; a loss has no answers."""
    return metric.endswith("_forget") and not metric.startswith("nll")
