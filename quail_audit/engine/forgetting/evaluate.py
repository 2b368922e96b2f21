"""Score one arm by every metric of the data, cheap ones first, as a stream of events."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.bootstrap import mean_score
from quail_audit.engine.forgetting.data.order import block_of, places_of
from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.metrics.registry import known_metrics
from quail_audit.engine.forgetting.models.classifier import TransformersClassifier
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.load import LoadedArm
from quail_audit.runs.journal import Journal
from quail_audit.schema.events.audit import ITEM_DECIMALS, MetricScored, SampleScored
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import Score
from quail_audit.schema.requests import PromptFormat
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, SHOWN_WITH_THEM, retain_metrics


@dataclass(frozen=True, eq=False)
class ArmScores:
    """The scores of an arm, as recovery needs them.

    Attributes:
        means: metric -> Measured.score.
        scores: metric -> Measured.values, in the order asked, so that arms pair up by sample.
        batch_size: samples of the largest batch that went through.
        samples: how many were scored, over all metrics.
    """

    means: Mapping[str, Score]
    scores: Mapping[str, npt.NDArray[np.float64]]
    batch_size: int
    samples: int = 0


NOTHING = ArmScores({}, {}, 0)


def evaluate_arm(
    arm: str,
    loaded: LoadedArm,
    data: ForgettingData,
    metrics: Sequence[str],
    *,
    batch_size: int | None,
    seed: int,
    journal: Journal | None = None,
    prompt_format: PromptFormat = "auto",
    block: tuple[int, int] | None = None,
    earlier: ArmScores = NOTHING,
) -> Generator[Event, None, ArmScores]:
    """Score an arm, or some of its metrics, or some of its items.

    Args:
        arm: its name: "unlearned/nf4".
        loaded: the model.
        data: what to ask it, fitted to it (labels.py).
        metrics: names, all of them in data.samples; measured in the registry's order.
        batch_size: None: found by the memory there is.
        seed: of the bootstrap.
        journal: where the results of batches are kept, and found again; None: nowhere.
        prompt_format: how a language model is asked questions.
        block: the places, in the order asked, from which and up to which items are asked; None: all. A metric that is
            no mean of items is measured over all of its samples even so.
        earlier: what was found of earlier blocks and metrics.

    Yields:
        SampleScored as batches finish, MetricScored for each metric, and Noted for what the reader should know.

    Returns:
        The scores, by sample, with the earlier ones.

    Raises:
        EnvironmentProblemError: out of memory with one sample at a time.
    """
    model: TransformersClassifier | TransformersModel
    if data.labels:
        model = TransformersClassifier(loaded.model, loaded.tokenizer, batch_size=batch_size, journal=journal)
    else:
        model = TransformersModel(
            loaded.model, loaded.tokenizer, batch_size=batch_size, journal=journal, prompt_format=prompt_format
        )
    chosen = [metric for metric in known_metrics() if metric.name in metrics]
    is_whole = block is None and not earlier.samples
    planned = [metric.name for metric in chosen] if is_whole else list(data.samples)
    total, done = sum(data.samples[name] for name in planned), earlier.samples
    part = data if block is None else block_of(data, *block)
    means, scores = dict(earlier.means), dict(earlier.scores)
    noted = 0
    for metric in chosen:
        asked = part if adds_up(metric.name) else data
        if not metric.samples(asked):  # its items end before this block
            continue
        places = places_of(asked, metric.name)
        samples = metric.measure(asked, model, seed=seed)
        while True:
            try:
                sample = next(samples)
            except StopIteration as end:
                measured = end.value
                break
            done += 1
            yield SampleScored(
                arm=arm,
                metric=metric.name,
                sample=places[sample.index] if sample.index < len(places) else sample.index,
                done=done,
                total=total,
                score=sample.score,
                prompt=sample.prompt,
                truth=sample.truth,
                answer=sample.answer,
                probabilities=dict(sample.probabilities),
                way=sample.way,
            )
        score, values = measured.score, measured.values
        if asked is part and metric.name in earlier.scores:
            values = np.concatenate((earlier.scores[metric.name], values))
            score = mean_score(values, seed=seed)
        means[metric.name], scores[metric.name] = score, values
        items = _round_items(values) if has_items(metric.name) else ()
        yield MetricScored(arm=arm, metric=metric.name, score=score, items=items)
        for note in model.notes[noted:]:
            yield Noted(message=f"{arm}: {note}")
        noted = len(model.notes)
    return ArmScores(means, scores, max(earlier.batch_size, model.size.used), done)


def adds_up(metric: str) -> bool:
    """Return True if a metric of Quail's own is a mean over items, which can be asked in parts."""
    return has_items(metric) or metric in SHOWN_WITH_THEM


def has_items(metric: str) -> bool:
    """Return True if a metric decides or tells utility, so that its items' scores are needed, whose mean it is."""
    return metric in DECIDING_METRICS or bool(retain_metrics([metric]))


def _round_items(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return one score for each item; none if a metric of another package keeps something else."""
    return tuple(values.round(ITEM_DECIMALS).tolist()) if values.ndim == 1 else ()
