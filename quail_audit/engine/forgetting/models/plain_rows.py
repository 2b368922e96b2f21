"""Make the short rows that a model is asked to find out its ways, and compare its answers to them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.models.forward import vocabulary_of

# Rows as short as this are read in no time, yet hold more padding than a convolution is wide.
LONG, SHORT = 25, 8
# Both rows go beyond windows and chunks of attention up to this, so that their edges are asked, too.
LARGEST_REACH = 64
REACHES = ("window", "chunk", "block", "kernel", "conv")
STEPS = 3  # the first token is read from the prompt, the second over its cache, the third over the cache as updated


@dataclass(frozen=True, eq=False)
class PlainRow:
    """A row that was asked plainly, in float32 log-probabilities on the CPU.

    Attributes:
        ids: the row.
        new_ids: its greedy continuation.
        read: [length, vocabulary], of the row.
        steps: [STEPS, vocabulary], of its continuation.
    """

    ids: list[int]
    new_ids: list[int]
    read: torch.Tensor
    steps: torch.Tensor


def random_rows(model: PreTrainedModel) -> tuple[list[int], list[int], list[int]]:
    """Return two rows of one length and a shorter one, the same each time, without special tokens."""
    config = read_model_config(model.config)
    vocabulary = min(vocabulary_of(model), config.vocabulary or vocabulary_of(model))
    settings = settings_of(model.config)
    special = {
        token
        for name, value in settings
        if "token" in name
        for token in (value if isinstance(value, list | tuple) else (value,))
    }
    usual = [token for token in range(min(vocabulary, 10_000)) if token not in special] or list(range(vocabulary))
    reaches = (value for name, value in settings if any(word in name for word in REACHES) and type(value) is int)
    reach = max((value for value in reaches if value <= LARGEST_REACH), default=0)
    long, short = max(LONG, 2 * reach + SHORT), max(SHORT, reach + 2)
    if config.window is not None:
        long = max(1, min(long, config.window - STEPS))
        short = max(1, min(short, long // 2))
    generator = random.Random(long)  # noqa: S311 - the same rows each time
    return tuple([generator.choice(usual) for _ in range(length)] for length in (long, long, short))  # type: ignore[return-value]


def settings_of(config: Any) -> list[tuple[str, Any]]:
    """Return all names and values of a configuration, nested ones, too."""
    found: list[tuple[str, Any]] = []
    pending: list[Any] = [config.to_dict()]
    while pending:
        for name, value in pending.pop().items():
            found.append((str(name), value))
            if isinstance(value, Mapping):
                pending.append(value)
    return found


def log_softmax_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1).cpu()


def distances(found: torch.Tensor, plain: torch.Tensor) -> tuple[float, float]:
    """Return how far log-probabilities [places, vocabulary] are apart, on average and at most, in spreads of the plain.

    Tokens without a finite log-probability in either are left out; without one in only one of them they are infinitely
    far.
    """
    finite = plain.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf"), float("inf")
    if not finite.any():
        return 0.0, 0.0
    spread = plain[finite].std(correction=0).clamp(min=1e-9)
    apart = (found - plain)[finite].abs() / spread
    return float(apart.mean()), float(apart.max())
