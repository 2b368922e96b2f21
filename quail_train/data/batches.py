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
        pairs: (forget sample, retain sample), step by step; the retain sample is None without a retain set. All
            forget samples of a step are texts, or all are questions; so are all its retain samples.
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

    An epoch is a pass over the forget set. If the forget set is smaller than a batch, the batch becomes smaller; each
    part keeps at least one sample. Texts and questions have batches of their own, since a text beside longer questions
    would be mostly padding. They take turns by their numbers, so that all are seen equally often.

    A step on questions keeps questions, if the retain set has some: however many texts it has besides, its questions
    are asked as often as those that are forgotten. If only the retain set has both, an epoch shows its questions once,
    in at most half of the steps.

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
    kinds = _pair_kinds(data)
    passes = {samples: _passes(samples, random) for kind in kinds for samples in (kind.forget, kind.retain)}
    pairs: list[tuple[int, int | None]] = []
    due = [0.0] * len(kinds)
    for _ in range(steps):
        due = [waited + kind.share for waited, kind in zip(due, kinds, strict=True)]
        turn = due.index(max(due))
        due[turn] -= 1
        forget, retain = passes[kinds[turn].forget], passes[kinds[turn].retain]
        pairs += [(next(forget), next(retain, None)) for _ in range(count)]
    return BatchPlan(tuple(pairs), steps, count)


@dataclass(frozen=True)
class _PairKind:
    """Forget and retain samples that come in the same steps, by their places, and the share of the steps."""

    forget: tuple[int, ...]
    retain: tuple[int, ...]
    share: float


def _pair_kinds(data: TrainingData) -> list[_PairKind]:
    """Return which samples come together: texts with texts and questions with questions, if both sets have them."""
    forget, retain = _by_kind(data.forget), _by_kind(data.retain)
    count = len(data.forget)
    if len(retain) < 2:
        kept = tuple(range(len(data.retain)))
        return [_PairKind(samples, kept, len(samples) / count) for samples in forget.values()]
    if len(forget) == 2:
        return [_PairKind(samples, retain[asks], len(samples) / count) for asks, samples in forget.items()]
    ((asks, samples),) = forget.items()
    share = min(len(retain[not asks]) / count, 0.5)
    return [_PairKind(samples, retain[asks], 1 - share), _PairKind(samples, retain[not asks], share)]


def _by_kind(samples: Sequence[TrainingSample]) -> dict[bool, tuple[int, ...]]:
    """Return the places of the texts (False) and of the questions (True); without the kind that there is none of."""
    found = {asks: tuple(i for i, sample in enumerate(samples) if sample.asks is asks) for asks in (False, True)}
    return {asks: places for asks, places in found.items() if places}


def _passes(places: Sequence[int], random: Random) -> Iterator[int]:
    while places:
        yield from random.sample(places, len(places))


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
