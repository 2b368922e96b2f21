"""Train the truth set's models: teach texts, forget texts, refuse, mask; free or confined to buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.validity.texts import Item

IGNORED = -100  # a label that does not count: the convention of transformers
GRADIENT_NORM_LIMIT = 1.0
ROWS = 64  # in a batch


@dataclass(frozen=True, eq=False)
class Rows:
    """Right-padded texts: ids and labels, int64 [rows, longest]; the causal mask hides the padding.

    Attributes:
        others: a second label of each token, that shares its probability; None: there is none.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    others: torch.Tensor | None = None

    def take(self, places: torch.Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(self.ids[places], self.labels[places], None if self.others is None else self.others[places])


def rows_of(tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], *, given: int | None = None) -> Rows:
    """Return the rows of items, each ended by EOS.

    Args:
        tokenizer: the tokenizer of the model.
        items: the items.
        given: tokens of the truth that are given, not learned; the prompt's tokens then do not count either. None:
            every token counts.
    """
    rows, starts = [], []
    for item in items:
        prompt = tokenizer(item.prompt)["input_ids"]
        rows.append([*tokenizer(item.prompt + item.truth)["input_ids"], tokenizer.eos_token_id])
        starts.append(0 if given is None else len(prompt) + given)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    place = torch.arange(longest)
    lengths, begins = torch.tensor([len(row) for row in rows])[:, None], torch.tensor(starts)[:, None]
    return Rows(ids, torch.where((place >= begins) & (place < lengths), ids, IGNORED))


def loss_of(model: PreTrainedModel, rows: Rows, share: float = 0.5) -> torch.Tensor:
    """Return the mean loss of the rows' labels, in nats; with other labels, these have that share of the target."""
    logits = model(input_ids=rows.ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    loss = F.cross_entropy(logits, rows.labels[:, 1:].flatten(), ignore_index=IGNORED)
    if rows.others is None:
        return loss
    return (1 - share) * loss + share * F.cross_entropy(logits, rows.others[:, 1:].flatten(), ignore_index=IGNORED)


def batches(rows: Rows, size: int, generator: torch.Generator) -> Iterator[Rows]:
    """Yield batches of the rows without end, each row once an epoch."""
    count = rows.ids.shape[0]
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield rows.take(order[start : start + size])


def train(
    model: PreTrainedModel,
    loss: Callable[[int], torch.Tensor],
    steps: int,
    *,
    learning_rate: float,
    trained: Sequence[torch.nn.Parameter] | None = None,
    after_each: Callable[[], None] | None = None,
) -> None:
    """Minimize a loss in place: AdamW, a warm-up, a linear decay over the last half.

    Args:
        model: model to change.
        loss: step -> the loss to minimize.
        steps: number of steps.
        learning_rate: the highest.
        trained: weights to change; None: all that want a gradient.
        after_each: called after each step, such as to confine the weights.
    """
    torch.set_num_threads(1)
    model.train()
    weights = [each for each in model.parameters() if each.requires_grad] if trained is None else list(trained)
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10, max(0.02, 2 * (steps - step) / steps))
    )
    for step in range(steps):
        found = loss(step)
        for weight in model.parameters():
            weight.grad = None
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, GRADIENT_NORM_LIMIT)
        optimizer.step()
        schedule.step()
        if after_each is not None:
            after_each()
    model.train(False)


def teach(model: PreTrainedModel, rows: Rows, *, steps: int, learning_rate: float, seed: int) -> None:
    """Teach a model the rows, in place."""
    generator = torch.Generator().manual_seed(seed)
    source = batches(rows, ROWS, generator)
    train(model, lambda _: loss_of(model, next(source)), steps, learning_rate=learning_rate)
