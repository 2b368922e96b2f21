"""Run rows of unlike length in batches: sorted by length, as many at once as memory takes.

Batches that a stopped audit kept are not run again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.runs.journal import Entry, Journal, KeptArray

if TYPE_CHECKING:
    from typing import Self

    from transformers import PreTrainedModel

# More rows hardly speed up a step, and results should appear while one watches.
MOST_ROWS = 128
MOST_ROWS_ON_CPU = 32
# On a CPU a fixed sum, so that batches, and with them the last bits of every score, are the same on every run.
CPU_BYTES = 2**30
# Elsewhere this share of what is free; the rest is for what the estimate of a row leaves out.
FREE_SHARE = 0.5
USUAL_HIDDEN_SIZE = 4096  # if a configuration does not say

T = TypeVar("T")
Batch = tuple[Sequence[T], int, int | None]  # results, then BatchSize.most and .available_bytes


class KeptBatch(Entry):
    """The results of a batch, and what the size of the next depends on."""

    results: tuple[KeptArray | tuple[int, ...], ...]
    most: int
    available_bytes: int | None

    @classmethod
    def of(cls, events: Sequence[Any], result: Batch[Any]) -> Self:
        """Return the entry of results that are token ids or arrays."""
        results, most, available_bytes = result
        kept = tuple(KeptArray.of(one) if isinstance(one, np.ndarray) else tuple(one) for one in results)
        return cls(results=kept, most=most, available_bytes=available_bytes)

    def replay(self) -> Generator[Any, None, Batch[Any]]:
        """Return the batch."""
        yield from ()
        results = [one.array() if isinstance(one, KeptArray) else list(one) for one in self.results]
        return results, self.most, self.available_bytes


@dataclass
class BatchSize:
    """A batch size: how many rows go through at once, and how many went through already.

    Attributes:
        most: rows; lowered for good when memory runs out.
        available_bytes: for a batch; None if the number of rows was given, and memory is not looked at.
        used: rows of the largest batch that went through.
        journal: where batches are kept; if it has a file, their results are token ids or arrays.
        calls: of run_in_batches so far, which come in the same order every time.
    """

    most: int
    available_bytes: int | None
    used: int = 0
    journal: Journal = field(default_factory=Journal, compare=False)
    calls: int = 0

    def rows(self, row_bytes: int) -> int:
        """The rows that go through at once when each takes so much memory."""
        if self.available_bytes is None:
            return self.most
        return max(1, min(self.most, self.available_bytes // max(1, row_bytes)))


def batch_size_for(device: torch.device, asked: int | None) -> BatchSize:
    """As asked for, else by the memory of the device that is free now."""
    if asked is not None:
        return BatchSize(asked, None)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        return BatchSize(MOST_ROWS_ON_CPU, CPU_BYTES)
    return BatchSize(MOST_ROWS, int(free * FREE_SHARE))


def token_bytes(model: PreTrainedModel) -> int:
    """An estimate of what one token of a row takes: its keys and values, and the activations of the widest layer."""
    config = read_model_config(model.config)
    hidden = config.hidden_size or USUAL_HIDDEN_SIZE
    cached = 2 * (config.layers or 1) * (config.key_value_heads or 1) * (config.head_size or hidden)
    widest = config.intermediate_size or 4 * hidden
    return int((cached + 8 * hidden + 3 * widest) * model.dtype.itemsize)


def run_in_batches(
    lengths: Sequence[int],
    row_bytes: Callable[[int], int],
    size: BatchSize,
    run: Callable[[Sequence[int]], Sequence[T]],
    fits: Callable[[int, int], bool] = lambda first, other: True,
) -> Iterator[tuple[int, T]]:
    """Run every row, the longest first, so that memory that does not suffice shows at once.

    Args:
        lengths: of the rows, in tokens.
        row_bytes: what a row of a length takes.
        size: how many rows at once; halved whenever memory runs out.
        run: takes the indices of a batch, returns a result for each.
        fits: says of a batch's longest row and another, by their lengths, whether they may go through at once.

    Yields:
        Each row's index and result, as batches are done.

    Raises:
        EnvironmentProblemError: memory does not suffice for one row.
        BadInputError: a kept batch is none of these rows'.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    done = 0
    size.calls += 1
    journal = size.journal.section(str(size.calls))
    while done < len(order):
        batch = _run_batch(order[done:], lengths, row_bytes, size, run, fits)
        results, size.most, size.available_bytes = yield from journal.once((str(done),), KeptBatch, batch)
        if not 0 < len(results) <= len(order) - done:
            raise BadInputError("what the run measured so far does not fit its data: start the audit anew")
        size.used = max(size.used, len(results))
        yield from zip(order[done : done + len(results)], results, strict=True)
        done += len(results)


def _run_batch(
    order: Sequence[int],
    lengths: Sequence[int],
    row_bytes: Callable[[int], int],
    size: BatchSize,
    run: Callable[[Sequence[int]], Sequence[T]],
    fits: Callable[[int, int], bool],
) -> Generator[tuple[int, T], None, Batch[T]]:
    """Run as many of the first rows as memory takes."""
    yield from ()  # results are passed on when they are kept
    while True:
        first, *others = order[: size.rows(row_bytes(lengths[order[0]]))]
        batch = [first, *takewhile(lambda index: fits(lengths[order[0]], lengths[index]), others)]
        results = _run_unless_out_of_memory(batch, run)
        if results is not None:
            if len(results) != len(batch):
                raise ValueError(f"{len(batch)} rows gave {len(results)} results")
            return results, size.most, size.available_bytes
        if len(batch) == 1:
            raise EnvironmentProblemError(
                f"out of memory with a single sample of {lengths[batch[0]]} tokens",
                mend="Use a device with more memory, or --dtype bfloat16",
            )
        size.most = len(batch) // 2


def _run_unless_out_of_memory(batch: Sequence[int], run: Callable[[Sequence[int]], Sequence[T]]) -> Sequence[T] | None:
    try:
        return run(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # out of the except clause: until then the error's traceback keeps the batch's tensors alive
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that host or device memory ran out."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        bool(should_reduce_batch_size(error)) or "not enough memory" in str(error)  # the latter on Windows
    )
