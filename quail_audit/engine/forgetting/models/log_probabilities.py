"""Compute log-probabilities of tokens in batches, token ids in, in one pass with what else the logits tell.

Memory is bounded, because logits are computed a stretch at a time, if the model answers the same so: see ways.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from quail_audit.engine.forgetting.models.batches import CPU_BYTES, BatchSize, run_in_batches, token_bytes
from quail_audit.engine.forgetting.models.beginnings import LEAST_SHARED_TOKENS, count_shared, read_shared
from quail_audit.engine.forgetting.models.forward import (
    Beginning,
    asking,
    filler_id,
    logits_after_beginning,
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
SPREAD_BYTES = 2**23  # of logits whose spread is computed at once, in float32
LEAST_IN_SPREAD = -1e4  # nats; a token of no probability adds nothing, where minus infinity would make NaN of it
COLUMNS, SPREAD_COLUMNS = 2, 4


@dataclass(frozen=True)
class TokenRow:
    """Token ids, and the first of them to score, which has at least one before it."""

    ids: Sequence[int]
    first: int = 1


def read_tokens(
    model: PreTrainedModel, rows: Sequence[TokenRow], *, size: BatchSize, spread: bool = False
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Score tokens of rows, each given all before it.

    Rows are padded on the right, where a causal model never looks, so no mask is needed. A beginning that all share
    before their first scored tokens is read once.

    Args:
        model: a model in eval mode.
        rows: rows of at least one token.
        size: size of the batches; lowered if memory runs out.
        spread: with the distribution's own mean and deviation.

    Yields:
        Each row's index and float32 [columns, scored tokens], as batches are done. The columns are the log-probability
        in nats (minus infinity if masked, NaN if the logits are not finite); 1 if it is the argmax, of equals the
        first, else 0; and, for the spread, mean and standard deviation of the log-probability under the distribution.

    Raises:
        BadInputError: the model fails when it is asked, or has no answer (see ways.py).
        EnvironmentProblemError: memory does not suffice for one row.
    """
    if not rows or not ways_of(model).answers:
        return
    reading = _Reading(model, rows, spread)
    lengths = [len(row.ids) for row in rows]
    yield from run_in_batches(lengths, reading.row_bytes, size, reading.run, fits=reading.ways.fits_reading)


class _Reading:
    """How one call reads its rows."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[TokenRow], spread: bool) -> None:
        self.model = model
        self.rows = rows
        self.spread = spread
        self.ways: Ways = ways_of(model)
        self.logit_bytes = BYTES_PER_LOGIT * vocabulary_of(model)
        self.stretch = max(1, LOGIT_BYTES // self.logit_bytes)
        longest = max(len(row.ids) for row in rows)
        before = min(count_shared([row.ids for row in rows]), min(row.first for row in rows) - 1)
        pays = len(rows) > 1 and before >= LEAST_SHARED_TOKENS and longest - before <= self.stretch
        self.shared = before if pays and self.ways.reads_after_beginning(longest) else 0

    @cached_property
    def beginning(self) -> Beginning | None:
        """The beginning that is read once; None if nothing is shared."""
        return read_shared(self.model, self.rows[0].ids[: self.shared]) if self.shared else None

    def row_bytes(self, length: int) -> int:
        """Return what a row takes."""
        token, logits = token_bytes(self.model), self.logit_bytes
        read = length - self.shared
        is_split = read > self.stretch and (self.ways.reads_stretches(length) or self.ways.splits_head)
        of_logits = (self.stretch if is_split else read) * logits
        if self.model.device.type == "cpu":
            return max(length * token, of_logits * (CPU_BYTES // CPU_LOGIT_BYTES))
        return length * token + 2 * of_logits

    def run(self, batch: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Score a batch; see read_tokens."""
        rows = [self.rows[index] for index in batch]
        filler = filler_id(self.model)
        padded = [torch.tensor(row.ids) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=filler).to(self.model.device)
        with asking(self.model, f"a text of {ids.shape[1]} tokens"), torch.inference_mode():
            found = self._score(ids)  # of the tokens after `shared` and one more
        skipped = 1 + self.shared
        return [
            found[place, :, row.first - skipped : len(row.ids) - skipped].cpu().numpy()
            for place, row in enumerate(rows)
        ]

    def _score(self, ids: torch.Tensor) -> torch.Tensor:
        """Return float32 [rows, columns, longest - 1 - shared] from ids [rows, longest]."""
        if ids.shape[1] == 1:
            return torch.empty((ids.shape[0], SPREAD_COLUMNS if self.spread else COLUMNS, 0))
        inputs, targets = ids[:, self.shared : -1], ids[:, self.shared + 1 :]
        length, stretch = inputs.shape[1], self.stretch
        if self.beginning is not None:
            return _token_scores(logits_after_beginning(self.model, inputs, self.beginning), targets, self.spread)
        if length > stretch and self.ways.reads_stretches(ids.shape[1]):
            parts = logits_over_cache(self.model, inputs, stretch)
        elif length > stretch and self.ways.splits_head:
            parts = logits_by_head(self.model, inputs, stretch)
        else:
            return _token_scores(logits_at_once(self.model, inputs), targets, self.spread)
        starts = range(0, length, stretch)
        found = [
            _token_scores(logits, targets[:, start : start + stretch], self.spread)
            for start, logits in zip(starts, parts, strict=True)
        ]
        return torch.cat(found, dim=2)


def _token_scores(logits: torch.Tensor, targets: torch.Tensor, spread: bool) -> torch.Tensor:
    """Return float32 [rows, columns, length] from logits [rows, length, vocabulary]; see read_tokens."""
    logits = logits.float()
    total = logits.logsumexp(-1)
    found = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total
    found = found.masked_fill(~total.isfinite(), torch.nan)
    is_likeliest = logits.argmax(-1) == targets
    columns = [found, is_likeliest.float()]
    if spread:
        columns += _spread(logits, total)
    return torch.stack(columns, dim=1)


def _spread(logits: torch.Tensor, total: torch.Tensor) -> list[torch.Tensor]:
    """Return mean and standard deviation [rows, length] of log p under p, in pieces that are bounded in memory."""
    rows = max(1, SPREAD_BYTES // (BYTES_PER_LOGIT * logits.shape[-1]))
    means, deviations = [], []
    pieces, sums_of = (torch.split(of, rows) for of in (logits.flatten(0, 1), total.flatten()))
    for piece, sums in zip(pieces, sums_of, strict=True):
        nats = (piece - sums.unsqueeze(-1)).clamp_(min=LEAST_IN_SPREAD)
        shares = nats.exp()
        mean = torch.linalg.vecdot(shares, nats)
        variance = torch.linalg.vecdot(shares, nats.sub_(mean.unsqueeze(-1)).square_())
        means.append(mean)
        deviations.append(variance.sqrt())
    return [torch.cat(parts).view_as(total) for parts in (means, deviations)]
