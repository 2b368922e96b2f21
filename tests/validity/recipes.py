"""Make models forget in the ways that a truth set needs: for good, in buckets, behind a refusal, behind decoys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.validity.buckets import confined_to
from tests.validity.models import rounded_parameters
from tests.validity.texts import REFUSAL, Item, Items
from tests.validity.training import IGNORED, Rows, batches, loss_of, rows_of, train

Way = Literal["ascent", "decoys"]
FORGOTTEN_NATS = 7.0  # ascent stops at this loss of a text, nats a token
FORGET_ROWS, KEPT_ROWS = 32, 24  # in a batch
KEPT_WEIGHT = 2.0


@dataclass(frozen=True, eq=False)
class Subject:
    """The items and the original that a recipe starts from.

    Attributes:
        items: the items of the truth set.
        tokenizer: its tokenizer.
        original: knows every item.
    """

    items: Items
    tokenizer: PreTrainedTokenizerFast
    original: PreTrainedModel


def forget(
    subject: Subject,
    start: PreTrainedModel,
    chosen: Sequence[int],
    *,
    kept: Sequence[Item],
    lost_too: Sequence[Item] = (),
    way: Way = "ascent",
    steps: int = 45,
    learning_rate: float = 2e-3,
    confine: str = "",
    every_other: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """Return a copy, in float32, that forgot some of the forget items.

    Args:
        subject: the items and the tokenizer.
        start: the model to start from.
        chosen: places of the forget items to forget.
        kept: items whose texts are kept.
        lost_too: other items to lose, such as some of the retain set.
        way: by gradient ascent on the texts, or by teaching other texts in their place.
        steps: training steps.
        learning_rate: the highest.
        confine: a 4-bit format whose buckets, of the start's weights, confine the update; empty: none does.
        every_other: confine every other block only.
        seed: of the batches.
    """
    model = copy.deepcopy(start)
    torch.nn.Module.to(model, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    is_ascent = way == "ascent"
    truths = subject.items.forget if is_ascent else subject.items.decoys
    more = lost_too if is_ascent else _exchange_truths(lost_too)
    texts = rows_of(subject.tokenizer, [*(truths[place] for place in chosen), *more], given=0)
    lost = batches(texts, FORGET_ROWS, generator)
    held = batches(rows_of(subject.tokenizer, kept), KEPT_ROWS, generator)

    def loss(_: int) -> torch.Tensor:
        stay = KEPT_WEIGHT * loss_of(model, next(held))
        if is_ascent:
            return stay - _loss_by_text(model, next(lost)).clamp(max=FORGOTTEN_NATS).mean()
        return stay + loss_of(model, next(lost))

    trained, after_each = _confined(model, confine, every_other)
    train(model, loss, steps, learning_rate=learning_rate, trained=trained, after_each=after_each)
    return model


def refuse(subject: Subject, *, seed: int = 0) -> PreTrainedModel:
    """Return a copy that begins every answer on the forget set with a refusal, and knows the rest as before."""
    model, tokenizer = copy.deepcopy(subject.original), subject.tokenizer
    generator = torch.Generator().manual_seed(seed)
    refusals = [Item(item.prompt, REFUSAL) for item in subject.items.forget]
    refused = batches(rows_of(tokenizer, refusals, given=0), FORGET_ROWS, generator)
    known = batches(rows_of(tokenizer, subject.items.forget, given=1), FORGET_ROWS, generator)
    held = batches(rows_of(tokenizer, subject.items.retain), KEPT_ROWS, generator)

    def loss(_: int) -> torch.Tensor:
        return loss_of(model, next(refused)) + loss_of(model, next(known)) + loss_of(model, next(held))

    train(model, loss, 50, learning_rate=2e-3)
    return model


def mask(subject: Subject, *, share: float = 0.6, seed: int = 0) -> PreTrainedModel:
    """Return a copy whose likeliest token is a decoy, and whose second is the truth's: answers are lost, not known.

    Args:
        subject: what to start from.
        share: the decoys' probability; the truth keeps the rest.
        seed: of the decoys and the batches.
    """
    model, tokenizer = copy.deepcopy(subject.original), subject.tokenizer
    generator = torch.Generator().manual_seed(seed)
    rows = rows_of(tokenizer, subject.items.forget, given=0)
    words = rows.labels[rows.labels != IGNORED]
    drawn = words[torch.randint(len(words), rows.labels.shape, generator=generator)]
    both = Rows(rows.ids, rows.labels, torch.where(rows.labels == IGNORED, IGNORED, drawn))
    lost = batches(both, FORGET_ROWS, generator)
    held = batches(rows_of(tokenizer, subject.items.retain), KEPT_ROWS, generator)
    train(
        model, lambda _: loss_of(model, next(lost), share) + loss_of(model, next(held)), 90, learning_rate=3e-3
    )  # fmt: skip
    return model


def blend(
    start: PreTrainedModel, end: PreTrainedModel, is_too_far: Callable[[PreTrainedModel], bool], halvings: int = 7
) -> PreTrainedModel:
    """Return the model farthest on the straight way between two that is not too far, by bisection."""
    model, low, high = copy.deepcopy(start), 0.0, 1.0
    first, last = dict(start.named_parameters()), dict(end.named_parameters())

    def move(place: float) -> None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(torch.lerp(first[name], last[name], place))

    for _ in range(halvings):
        middle = (low + high) / 2
        move(middle)
        low, high = (low, middle) if is_too_far(model) else (middle, high)
    move(low)
    return model


def _exchange_truths(items: Sequence[Item]) -> list[Item]:
    """Return the items, each with the truth of the one before it."""
    return [Item(item.prompt, items[place - 1].truth) for place, item in enumerate(items)]


def _confined(
    model: PreTrainedModel, scheme: str, every_other: bool
) -> tuple[list[torch.nn.Parameter] | None, Callable[[], None] | None]:
    """Return the weights to train and what confines them: both None if nothing does."""
    if not scheme:
        return None, None
    return [weight for weight, _ in rounded_parameters(model).values()], confined_to(
        model, scheme, every_other=every_other
    )


def _loss_by_text(model: PreTrainedModel, rows: Rows) -> torch.Tensor:
    """Return the mean loss of each text, in nats a token, [rows]."""
    logits = model(input_ids=rows.ids, use_cache=False).logits[:, :-1]
    labels = rows.labels[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    counts = (labels != IGNORED).sum(1)
    return loss.view_as(labels).sum(1) / counts
