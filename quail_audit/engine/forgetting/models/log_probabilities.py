"""Compute log-probabilities of texts in batches, token ids in.

Memory is bounded, because logits are computed a stretch at a time, if the model answers the same so: see ways.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from quail_audit.engine.forgetting.models.batches import CPU_BYTES, BatchSize, run_in_batches, token_bytes
from quail_audit.engine.forgetting.models.forward import (
    asking,
    filler_id,
    logits_at_once,
    logits_by_head,
    logits_over_cache,
    vocabulary_of,
)
from quail_audit.engine.forgetting.models.ways import Ways, ways_of

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

    Raises:
        BadInputError: the model fails when it is asked, or has no answer (see ways.py).
        EnvironmentProblemError: memory does not suffice for one text.
    """
    if not texts or not ways_of(model).answers:
        return
    token, ways, filler = token_bytes(model), ways_of(model), filler_id(model)
    logits = BYTES_PER_LOGIT * vocabulary_of(model)
    stretch = max(1, LOGIT_BYTES // logits)

    def run(batch: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        rows = [torch.tensor(texts[index]) for index in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler).to(model.device)
        with asking(model, f"a text of {ids.shape[1]} tokens"), torch.inference_mode():
            found = _row_log_probabilities(model, ids, stretch, ways)
        return [found[row, : len(texts[index]) - 1].cpu().numpy() for row, index in enumerate(batch)]

    def row_bytes(length: int) -> int:
        is_split = length > stretch and (ways.reads_stretches(length) or ways.splits_head)
        of_logits = (stretch if is_split else length) * logits
        if model.device.type == "cpu":
            return max(length * token, of_logits * (CPU_BYTES // CPU_LOGIT_BYTES))
        return length * token + 2 * of_logits

    yield from run_in_batches([len(text) for text in texts], row_bytes, size, run, fits=ways.fits_reading)


def _row_log_probabilities(model: PreTrainedModel, ids: torch.Tensor, stretch: int, ways: Ways) -> torch.Tensor:
    """Return float32 [rows, longest - 1] from ids [rows, longest], with logits of `stretch` positions at a time."""
    if ids.shape[1] == 1:
        return torch.empty((ids.shape[0], 0))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    length = inputs.shape[1]
    if length > stretch and ways.reads_stretches(ids.shape[1]):
        parts = logits_over_cache(model, inputs, stretch)
    elif length > stretch and ways.splits_head:
        parts = logits_by_head(model, inputs, stretch)
    else:
        return _target_log_probabilities(logits_at_once(model, inputs), targets)
    starts = range(0, length, stretch)
    found = [
        _target_log_probabilities(logits, targets[:, start : start + stretch])
        for start, logits in zip(starts, parts, strict=True)
    ]
    return torch.cat(found, dim=1)


def _target_log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of the targets: minus infinity if masked, NaN if the logits are not finite."""
    logits = logits.float()
    total = logits.logsumexp(-1)
    found = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total
    return found.masked_fill(~total.isfinite(), torch.nan)
