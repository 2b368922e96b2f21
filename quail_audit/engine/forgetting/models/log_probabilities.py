"""Compute log-probabilities of texts in batches, token ids in.

Memory is bounded, because logits are computed a stretch at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from quail_audit.engine.forgetting.models.batches import CPU_BYTES, BatchSize, run_in_batches, token_bytes

LOGIT_BYTES = 2**27  # of one stretch of one row, in float32
BYTES_PER_LOGIT = 4
# On a CPU a forward pass gains nothing from more rows, and loses up to 1.7 x once the logits outgrow the caches: rows
# are then only taken together as long as their logits are no more than this, as those of tiny models are.
CPU_LOGIT_BYTES = 2**23


def log_probabilities(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], *, size: BatchSize
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Compute log p(token | those before it), in nats, of each text's tokens but the first.

    Texts are padded on the right, where a causal model never looks, so no mask is needed.

    Args:
        model: a model in eval mode.
        texts: token ids, at least one for each.
        size: size of the batches; lowered if memory runs out.

    Yields:
        Each text's index and float32 [tokens - 1], as batches are done.
    """
    token = token_bytes(model)
    logits: int = BYTES_PER_LOGIT * model.config.get_text_config(decoder=True).vocab_size
    stretch = max(1, LOGIT_BYTES // logits)

    def run(batch: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        rows = [torch.tensor(texts[index]) for index in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
        with torch.inference_mode():
            found = _row_log_probabilities(model, ids, stretch)
        return [found[row, : len(texts[index]) - 1].cpu().numpy() for row, index in enumerate(batch)]

    def row_bytes(length: int) -> int:
        of_logits = min(length, stretch) * logits
        if model.device.type == "cpu":
            return max(length * token, of_logits * (CPU_BYTES // CPU_LOGIT_BYTES))
        return length * token + 2 * of_logits

    yield from run_in_batches([len(text) for text in texts], row_bytes, size, run)


def _row_log_probabilities(model: PreTrainedModel, ids: torch.Tensor, stretch: int) -> torch.Tensor:
    """Return float32 [rows, longest - 1] from ids [rows, longest], with logits of `stretch` positions at a time."""
    if ids.shape[1] == 1:
        return torch.empty((ids.shape[0], 0))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if inputs.shape[1] <= stretch:
        return _target_log_probabilities(model(inputs, use_cache=False).logits, targets)
    found, cache = [], None
    for start in range(0, inputs.shape[1], stretch):
        end = start + stretch
        output: Any = model(inputs[:, start:end], past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:  # a model that keeps no keys and values has to read everything at once
            return _target_log_probabilities(model(inputs, use_cache=False).logits, targets)
        found.append(_target_log_probabilities(output.logits, targets[:, start:end]))
    return torch.cat(found, dim=1)


def _target_log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of the targets: minus infinity if masked, NaN if the logits are not finite."""
    logits = logits.float()
    total = logits.logsumexp(-1)
    found = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total
    return found.masked_fill(~total.isfinite(), torch.nan)
