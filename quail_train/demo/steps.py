"""Make the steps that train the demos' models, and the unlearning that rounding erases.

Each step is yielded when it is made, so that a caller can show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_train.demo.confinement import bucket_of, rounds_alike

SCHEME: Final = "nf4"
LossOfStep = tuple[torch.Tensor, torch.Tensor]  # (the loss to minimize, the loss to show)


@dataclass(frozen=True)
class Step:
    """A step that was made.

    Attributes:
        number: from 1 to total.
        loss: loss of this step's batch, nats a token or a text; in unlearning that of the forget batch.
    """

    number: int
    total: int
    loss: float


@dataclass(frozen=True, eq=False)
class Shaken:
    """Layers whose weights are shaken while a step's gradient is taken, so that what is learned bears rounding.

    A large model bears 4 bits by itself. One of a million weights has no room to spare, and would lose in rounding what
    the demo is to show.

    Attributes:
        weights: weights of the layers.
        strength: standard deviation of the noise, in parts of that of the layer's weights. Rounding to nf4 has 0.09.
        generator: draws the noise.
    """

    weights: Sequence[torch.Tensor]
    strength: float
    generator: torch.Generator

    @contextmanager
    def shake(self) -> Iterator[None]:
        """Add noise to the weights; take it away at the end, to the last bit."""
        before = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            for weight in self.weights:
                noise = torch.randn(weight.shape, generator=self.generator)
                weight.add_(noise, alpha=self.strength * float(weight.std()))
        yield
        with torch.no_grad():
            for weight, kept in zip(self.weights, before, strict=True):
                weight.copy_(kept)


def teach(
    model: torch.nn.Module,
    losses: Iterator[LossOfStep],
    total: int,
    *,
    learning_rate: float,
    gradient_norm_limit: float,
    shaken: Shaken | None = None,
) -> Iterator[Step]:
    """Teach the model, in place: AdamW, a short warm-up, a linear decay over the last 40 % of the steps.

    Args:
        model: model to train; all its weights are trained.
        losses: losses of each step, computed from the current model when asked for.
        total: number of steps.
        shaken: layers that are shaken in each step; None: none are.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30, max(0.02, (total - step) / (0.4 * total)))
    )
    yield from _make_steps(
        model, list(model.parameters()), losses, total, optimizer, schedule, gradient_norm_limit, shaken=shaken
    )


def unlearn_in_buckets(
    model: torch.nn.Module,
    layers: Mapping[str, torch.nn.Linear],
    losses: Iterator[LossOfStep],
    total: int,
    *,
    learning_rate: float,
    gradient_norm_limit: float,
    shaken: Shaken | None = None,
) -> Iterator[Step]:
    """Train the model, in place; rounding to nf4 undoes the training to the last bit.

    Only the layers that nf4 rounds are changed, and after each step every weight is moved back into its own bucket.

    Args:
        model: model to change.
        layers: all its layers that nf4 rounds, by name.
        losses: losses of each step, computed from the current model when asked for.
        total: number of steps.
        shaken: layers that are shaken in each step; None: none are.

    Raises:
        EnvironmentProblemError: a code or scale differs at the end: this machine rounds in an unexpected way.
    """
    scheme = FourBit(SCHEME, double_quantization=False)
    weights = {name: layer.weight for name, layer in layers.items()}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    buckets = {name: bucket_of(weight, scheme) for name, weight in before.items()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)

    def confine() -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                buckets[name].confine(weight)

    trained = list(weights.values())
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, max(0.02, 2 * (1 - step / total))))
    yield from _make_steps(
        model, trained, losses, total, optimizer, schedule, gradient_norm_limit, after_each=confine, shaken=shaken
    )
    moved = [name for name, weight in weights.items() if not rounds_alike(before[name], weight.detach(), scheme)]
    if moved:
        raise EnvironmentProblemError(
            f"{SCHEME} rounds {len(moved)} layers of the unlearned model to other codes than the original's",
            where=moved[0],
            mend="This is a bug in Quail on this machine: please report it with the output of quail doctor",
        )


def rounded_layers(model: torch.nn.Module, head: str) -> dict[str, torch.nn.Linear]:
    """Return the layers that bitsandbytes rounds, by name: every linear layer but the head of this name."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != head
    }


def _make_steps(
    model: torch.nn.Module,
    trained: Sequence[torch.Tensor],
    losses: Iterator[LossOfStep],
    total: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    gradient_norm_limit: float,
    after_each: Callable[[], None] | None = None,
    shaken: Shaken | None = None,
) -> Iterator[Step]:
    torch.set_num_threads(1)  # set per thread; with more, sums would depend on their number
    model.train()
    for number in range(1, total + 1):
        with nullcontext() if shaken is None else shaken.shake():
            loss, shown = next(losses)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, gradient_norm_limit)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if after_each is not None:
            after_each()
        yield Step(number, total, shown.item())
