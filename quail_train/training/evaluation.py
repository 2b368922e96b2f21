"""Score the model in training with the audit's metrics, in full precision and rounded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.measurable import fit_data, read_data
from quail_audit.engine.forgetting.metrics.registry import metric_named
from quail_audit.engine.forgetting.models.classifier import TransformersClassifier
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.schema.report import FULL

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.data.types import ForgettingData, Split
    from quail_audit.schema.requests import TrainRequest
    from quail_train.training.rounded_forward import RoundedForward

Scores = dict[str, dict[str, float]]  # metric -> precision -> score
CHEAP = ("nll_forget", "nll_retain", "accuracy_forget", "label_probability_forget", "accuracy_retain")
KNOWLEDGE = ("verbmem", "knowmem", "accuracy")  # a target is about the first of these that the data has


@dataclass(frozen=True)
class Target:
    """Limits on the rounded model's scores; a training may stop when it meets them. None: no limit."""

    forget_metric: str
    forget_most: float | None
    retain_metric: str
    retain_least: float | None

    def is_reached(self, scores: Scores, scheme: str) -> bool:
        """Return True if the scores are within the limits."""
        forgot = self.forget_most is None or scores[self.forget_metric][scheme] <= self.forget_most
        kept = self.retain_least is None or scores[self.retain_metric][scheme] >= self.retain_least
        return forgot and kept


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The measurements during a training.

    Attributes:
        every: steps between two measurements.
        target: None: scores are only shown.
    """

    data: ForgettingData
    metrics: tuple[str, ...]
    scheme: str
    every: int
    target: Target | None
    seed: int

    def scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rounding: RoundedForward) -> Scores:
        """Score the model in full precision and rounded. Leaves it in eval mode."""
        found: Scores = {metric: {} for metric in self.metrics}
        for precision, mode in ((FULL, nullcontext()), (self.scheme, rounding.rounded())):
            with mode:
                asked = (TransformersClassifier if self.data.labels else TransformersModel)(model, tokenizer)
                for metric in self.metrics:
                    found[metric][precision] = self._mean(metric, asked)
        return found

    def _mean(self, metric: str, model: TransformersModel | TransformersClassifier) -> float:
        measuring = metric_named(metric).measure(self.data, model, seed=self.seed)
        while True:
            try:
                next(measuring)
            except StopIteration as end:
                return float(end.value.score.mean)


def evaluation_of(request: TrainRequest, pair: Pair, steps_an_epoch: int) -> Evaluation | None:
    """Return what the request wants measured during the training; None if nothing.

    With a target but no --eval-steps, it is measured after each epoch.

    Raises:
        BadInputError: the data has nothing to measure, or not what a target needs.
    """
    wants_target = request.target_forget is not None or request.target_retain is not None
    if request.eval_steps is None and not wants_target:
        return None
    data = read_data(request.data, columns=Columns(request.text_column, request.label_column))
    data = fit_data(data, pair.original, pair.unlearned)
    metrics = [metric for metric in CHEAP if metric in data.samples]
    target = None
    if wants_target:
        target = Target(
            _target_metric(data.samples, "forget", request),
            request.target_forget,
            _target_metric(data.samples, "retain", request),
            request.target_retain,
        )
        metrics += [metric for metric in (target.forget_metric, target.retain_metric) if metric not in ("", *metrics)]
    return Evaluation(
        data, tuple(metrics), request.scheme, request.eval_steps or max(1, steps_an_epoch), target, request.seed
    )


def _target_metric(samples: Mapping[str, int], split: Split, request: TrainRequest) -> str:
    limit = request.target_forget if split == "forget" else request.target_retain
    found = next((name for kind in KNOWLEDGE if (name := f"{kind}_{split}") in samples), "")
    if limit is not None and not found:
        raise BadInputError(
            f"has nothing to measure the {split} target with",
            where=request.data,
            mend=f"It needs verbmem/{split}.json, knowmem/{split}_qa.json or, for a classifier, {split}.csv; or leave "
            f"out --target-{split}",
        )
    return found
