"""Plan which samples come in which step, and collate them into tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models.classifier import pad_right
from quail_train.data.samples import TrainingData, TrainingSample
from quail_train.objectives.terms import IGNORED


def logits_of(model: nn.Module, batch: Mapping[str, torch.Tensor], rows: slice = slice(None)) -> torch.Tensor:
    """Return the model's logits of some rows: [rows, length, vocabulary], or a classifier's [rows, classes]."""
    ids = batch["input_ids"][rows]
    if "attention_mask" in batch:
        found: torch.Tensor = model(input_ids=ids, attention_mask=batch["attention_mask"][rows]).logits
    else:
        found = model(input_ids=ids, use_cache=False).logits
    return found


@dataclass(frozen=True)
class BatchPlan:
    """The samples of every step, as one list, so that a training can resume at any step.

    Attributes:
        pairs: (forget sample, retain sample), step by step; the retain sample is None without a retain set.
        steps: number of steps.
        batch_size: forget samples a step.
    """

    pairs: tuple[tuple[int, int | None], ...]
    steps: int
    batch_size: int


def plan_batches(
    data: TrainingData, *, batch_size: int, epochs: float, max_steps: int | None, parts: int, seed: int
) -> BatchPlan:
    """Cut shuffled passes over each set, one after another, into batches.

    An epoch is a pass over the forget set. If the forget set is smaller than a batch, the batch becomes smaller, so
    that no sample comes twice in it; each part keeps at least one sample.

    Args:
        data: forget and retain samples.
        batch_size: forget samples of a step.
        epochs: passes over the forget set.
        max_steps: number of steps instead of epochs; None: by epochs.
        parts: equal parts that a batch is split into: processes x accumulated batches.
        seed: random seed of the shuffles.

    Raises:
        BadInputError: fewer forget samples than parts, or a batch that cannot be split evenly.
    """
    count = min(batch_size, len(data.forget)) // parts * parts
    if count == 0 or (batch_size % parts and batch_size < len(data.forget)):
        raise BadInputError(
            f"a batch of {min(batch_size, len(data.forget))} samples cannot be split evenly into {parts} parts "
            "(processes x accumulated batches)",
            where="--batch-size",
            mend=f"Give a multiple of {parts}, and at least {parts} forget samples",
        )
    steps = max_steps if max_steps is not None else math.ceil(epochs * len(data.forget) / count)
    random = Random(seed)  # noqa: S311 - nothing secret
    forget, retain = _passes(len(data.forget), random), _passes(len(data.retain), random)
    pairs = tuple((next(forget), next(retain, None)) for _ in range(steps * count))
    return BatchPlan(pairs, steps, count)


def _passes(count: int, random: Random) -> Iterator[int]:
    while count:
        yield from random.sample(range(count), count)


class PlannedSamples(torch.utils.data.Dataset[tuple[TrainingSample, TrainingSample | None]]):
    """The samples of a plan, in the order of its steps."""

    def __init__(self, data: TrainingData, plan: BatchPlan) -> None:
        self._data = data
        self._pairs = plan.pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[TrainingSample, TrainingSample | None]:
        forget, retain = self._pairs[index]
        return self._data.forget[forget], None if retain is None else self._data.retain[retain]


def collate(pairs: Sequence[tuple[TrainingSample, TrainingSample | None]], padding: int = 0) -> dict[str, torch.Tensor]:
    """Return one batch: forget samples, then retain samples, right-padded.

    For a language model: input_ids and labels, int64 [rows, longest], and samples, int64 [rows], their numbers. A
    causal mask hides the padding, so there is no attention mask. For a classifier: input_ids and attention_mask, int64
    [rows, longest], and labels, other_labels and samples, int64 [rows]; `padding` must be its own padding token. A
    language model's rows are filled with token 0, which the original has, too; a padding token may have been added.
    """
    samples = [forget for forget, _ in pairs] + [retain for _, retain in pairs if retain is not None]
    longest = max(len(sample.ids) for sample in samples)
    if samples[0].label is not None:
        ids, mask = pad_right([sample.ids for sample in samples], padding)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([sample.label for sample in samples]),
            "other_labels": torch.tensor([sample.other_label for sample in samples]),
            "samples": torch.tensor([sample.number for sample in samples]),
        }
    return {
        "input_ids": torch.tensor([sample.ids + (0,) * (longest - len(sample.ids)) for sample in samples]),
        "labels": torch.tensor([sample.labels + (IGNORED,) * (longest - len(sample.ids)) for sample in samples]),
        "samples": torch.tensor([sample.number for sample in samples]),
    }
