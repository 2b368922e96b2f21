"""Runs rows of unlike length through a model in batches: sorted by length, as many at once as memory takes.

Batches that a stopped audit kept are not run again. Not here: what is done with a batch (generation.py,
log_probabilities.py).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.core.values import Value
from quail_audit.runs.journal import Journal, KeptArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# More rows hardly speed up a step, and results should appear while one watches.
MOST_ROWS = 128
MOST_ROWS_ON_CPU = 32
# On a CPU a fixed sum, so that batches, and with them the last bits of every score, are the same on every run.
CPU_BYTES = 2**30
# Elsewhere this share of what is free; the rest is for what the estimate of a row leaves out.
FREE_SHARE = 0.5

T = TypeVar("T")


class KeptBatch(Value):
    """The results of a batch, and what the size of the next depends on."""

    results: tuple[KeptArray | tuple[int, ...], ...]
    most: int
    available_bytes: int | None


class KeptBatches:
    """The batches of one arm. Told apart by the call of run_in_batches, which come in the same order every time.

    Args:
        journal: that keeps them.
        arm: whose they are.
    """

    def __init__(self, journal: Journal, arm: str) -> None:
        self._journal = journal
        self._arm = arm
        self._calls = 0

    def next_call(self) -> str:
        """A name for the call that begins."""
        self._calls += 1
        return str(self._calls)

    def find(self, call: str, place: int) -> KeptBatch | None:
        """The batch of a call that began with the row of that place in the order."""
        return self._journal.find(KeptBatch, "batch", self._arm, call, str(place))

    def keep(self, call: str, place: int, results: Sequence[Any], size: BatchSize) -> None:
        """Keep the results of a batch: token ids, or arrays."""
        kept = tuple(KeptArray.of(one) if isinstance(one, np.ndarray) else tuple(one) for one in results)
        entry = KeptBatch(results=kept, most=size.most, available_bytes=size.available_bytes)
        self._journal.keep(entry, "batch", self._arm, call, str(place))


@dataclass
class BatchSize:
    """How many rows go through at once, and which went through already.

    Attributes:
        most: rows; lowered for good when memory runs out.
        available_bytes: for a batch; None where the number of rows was asked for and memory is not looked at.
        used: rows of the largest batch that went through.
        kept: where batches are kept, whose results then are token ids or arrays; None: nowhere.
    """

    most: int
    available_bytes: int | None
    used: int = 0
    kept: KeptBatches | None = None

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
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 1
    hidden = config.hidden_size
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or hidden // heads
    cached = 2 * config.num_hidden_layers * key_value_heads * head_size
    widest = getattr(config, "intermediate_size", None) or 4 * hidden
    return int((cached + 8 * hidden + 3 * widest) * model.dtype.itemsize)


def run_in_batches(
    lengths: Sequence[int],
    row_bytes: Callable[[int], int],
    size: BatchSize,
    run: Callable[[Sequence[int]], Sequence[T]],
) -> Iterator[tuple[int, T]]:
    """Run every row, the longest first, so that memory that does not suffice shows at once.

    Args:
        lengths: of the rows, in tokens.
        row_bytes: what a row of a length takes.
        size: how many rows at once; halved whenever memory runs out.
        run: takes the indices of a batch, returns a result for each.

    Yields:
        Each row's index and result, as batches are done.

    Raises:
        EnvironmentProblemError: memory does not suffice for one row.
        BadInputError: a kept batch is none of these rows'.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    done = 0
    call = size.kept.next_call() if size.kept is not None else ""
    while done < len(order):
        before = size.kept.find(call, done) if size.kept is not None else None
        if before is not None:
            if not 0 < len(before.results) <= len(order) - done:
                raise BadInputError("what the run measured so far does not fit its data: start the audit anew")
            size.most, size.available_bytes = before.most, before.available_bytes
            size.used = max(size.used, len(before.results))
            yield from zip(order[done : done + len(before.results)], map(_restored, before.results), strict=True)
            done += len(before.results)
            continue
        batch = order[done : done + size.rows(row_bytes(lengths[order[done]]))]
        results = _run_unless_out_of_memory(batch, run)
        if results is None:
            if len(batch) == 1:
                raise EnvironmentProblemError(
                    f"out of memory with a single sample of {lengths[batch[0]]} tokens",
                    mend="Use a device with more memory, or --dtype bfloat16",
                )
            size.most = len(batch) // 2
            continue
        if size.kept is not None:
            size.kept.keep(call, done, results, size)
        size.used = max(size.used, len(batch))
        yield from zip(batch, results, strict=True)
        done += len(batch)


def _restored(result: KeptArray | tuple[int, ...]) -> Any:
    return result.array() if isinstance(result, KeptArray) else list(result)


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
    """Whether an error says that host or device memory ran out."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        bool(should_reduce_batch_size(error)) or "not enough memory" in str(error)  # the latter on Windows
    )
