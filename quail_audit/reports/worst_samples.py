"""Find the samples that came back most at a scheme, with every arm's answer.

Texts are not printable yet. A run's events are read twice, first for the scores, then for the texts of the few samples
that are shown, so that memory depends on the number of samples, not on their length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.events.lines import Event
from quail_audit.schema.report import FULL, arm_at

_KINDS = ("verbmem", "knowmem")  # metrics of a kind score the same samples


@dataclass(frozen=True)
class WorstSample:
    """One sample of a forget metric.

    Attributes:
        metric: the metric by which it is known best; its kind's answers stand beside its scores.
        number: the sample's place in the data file, from 0.
        prompt, truth: the sample's texts.
        scores: arm -> score, in the metric's own unit.
        answers: arm -> text.
        ways: arm -> how the sample was asked when it scored so, if not as the data has it: "longer prompt".
    """

    metric: str
    number: int
    prompt: str
    truth: str
    scores: dict[str, float]
    answers: dict[str, str]
    ways: dict[str, str]


def worst_samples(events: Callable[[], Iterable[Event]], scheme: str, *, most: int) -> list[WorstSample]:
    """Return the samples that the deployed model knows furthest above the floor, the worst first.

    The floor is the reference's score, or, without a reference, that of the unlearned checkpoint in full precision.

    Args:
        events: returns the run's events from the first on, each time it is called.
        scheme: the scheme at which they came back.
        most: the most samples to return.
    """
    before, after, reference = f"unlearned/{FULL}", arm_at("unlearned", scheme), f"retrain/{FULL}"
    arms = (f"original/{FULL}", before, after, reference)
    scores: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for event in events():
        if isinstance(event, SampleScored) and event.arm in arms and _tells_a_sample(event.metric):
            scores[event.metric, event.sample][event.arm] = event.score
    rises: dict[tuple[str, int], tuple[float, str]] = {}  # (kind, sample) -> the largest, and its metric
    for (metric, number), found in scores.items():
        floor = found.get(reference, found.get(before))
        if after in found and floor is not None and found[after] > floor:
            item, rise = (_kind(metric), number), (found[after] - floor, metric)
            rises[item] = max(rises.get(item, rise), rise, key=lambda each: each[0])
    chosen = sorted(rises, key=lambda item: (-rises[item][0], item))[:most]
    texts: dict[tuple[str, int], dict[tuple[str, str], SampleScored]] = {item: {} for item in chosen}
    for event in events():
        if isinstance(event, SampleScored) and event.arm in arms:
            item = _kind(event.metric), event.sample
            if item in texts and event.metric in (rises[item][1], f"{item[0]}_forget"):
                texts[item][event.metric, event.arm] = event
    return [_worst_sample(rises[item][1], item, texts[item], arms) for item in chosen]


def _worst_sample(
    metric: str, item: tuple[str, int], texts: Mapping[tuple[str, str], SampleScored], arms: Iterable[str]
) -> WorstSample:
    kind, number = item
    scored = {arm: texts[metric, arm] for arm in arms if (metric, arm) in texts}
    answered = {arm: texts.get((f"{kind}_forget", arm), found) for arm, found in scored.items()}
    first = next(iter(answered.values()))
    return WorstSample(
        metric=metric,
        number=number,
        prompt=first.prompt,
        truth=first.truth,
        scores={arm: found.score for arm, found in scored.items()},
        answers={arm: found.answer for arm, found in answered.items()},
        ways={arm: found.way for arm, found in scored.items()},
    )


def _kind(metric: str) -> str:
    """Return what the samples of a metric are; a metric without a kind has its own."""
    return next((kind for kind in _KINDS if metric.startswith(kind)), metric.removesuffix("_forget"))


def _tells_a_sample(metric: str) -> bool:
    """Return whether a high score of a metric means a sample that is known."""
    return metric.endswith("_forget") and not metric.startswith("nll") and "_exact_memorization" not in metric
