"""Plan which samples come in which step, and collate them."""

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
    """Of some rows: [rows, length, vocabulary], or a classifier's [rows, classes]."""
    ids = batch["input_ids"][rows]
    if "attention_mask" in batch:
        found: torch.Tensor = model(input_ids=ids, attention_mask=batch["attention_mask"][rows]).logits
    else:
        found = model(input_ids=ids, use_cache=False).logits
    return found


@dataclass(frozen=True)
class Plan:
    """Which samples come in which step: one list for a whole training, so that it can be entered anywhere.

    Attributes:
        pairs: (forget sample, retain sample), step by step; no retain sample where there is no retain set.
        steps: how many.
        batch_size: forget samples a step.
    """

    pairs: tuple[tuple[int, int | None], ...]
    steps: int
    batch_size: int


def plan(
    data: TrainingData, *, batch_size: int, epochs: float, max_steps: int | None, processes: int, seed: int
) -> Plan:
    """Deal the samples: shuffled passes over each set, one after another, cut into batches.

    An epoch is a pass over the forget set. A forget set smaller than a batch makes the batch smaller, so that no sample
    comes twice in one, down to one sample a process.

    Raises:
        BadInputError: fewer forget samples than processes, or a batch that does not divide among them.
    """
    count = min(batch_size, len(data.forget)) // processes * processes
    if count == 0 or (batch_size % processes and batch_size < len(data.forget)):
        raise BadInputError(
            f"a batch of {min(batch_size, len(data.forget))} samples cannot be dealt evenly to {processes} processes",
            where="--batch-size",
            mend=f"Give a multiple of {processes}, and at least {processes} forget samples",
        )
    steps = max_steps if max_steps is not None else math.ceil(epochs * len(data.forget) / count)
    random = Random(seed)  # noqa: S311 - nothing secret
    forget, retain = _passes(len(data.forget), random), _passes(len(data.retain), random)
    pairs = tuple((next(forget), next(retain, None)) for _ in range(steps * count))
    return Plan(pairs, steps, count)


def _passes(count: int, random: Random) -> Iterator[int]:
    while count:
        yield from random.sample(range(count), count)


class PlannedSamples(torch.utils.data.Dataset[tuple[TrainingSample, TrainingSample | None]]):
    """The samples of a plan, in its order."""

    def __init__(self, data: TrainingData, planned: Plan) -> None:
        self._data = data
        self._pairs = planned.pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[TrainingSample, TrainingSample | None]:
        forget, retain = self._pairs[index]
        return self._data.forget[forget], None if retain is None else self._data.retain[retain]


def collate(pairs: Sequence[tuple[TrainingSample, TrainingSample | None]], padding: int = 0) -> dict[str, torch.Tensor]:
    """One batch: forget samples, then retain samples, right-padded: input_ids and labels, int64 [rows, longest].

    And samples, int64 [rows]: their numbers.

    Under a causal mask the padding is seen by nobody, so no attention mask is needed. A classifier gets one, labels and
    other_labels, int64 [rows], and must be padded with its own padding token.
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
        "input_ids": torch.tensor([sample.ids + (padding,) * (longest - len(sample.ids)) for sample in samples]),
        "labels": torch.tensor([sample.labels + (IGNORED,) * (longest - len(sample.ids)) for sample in samples]),
        "samples": torch.tensor([sample.number for sample in samples]),
    }
