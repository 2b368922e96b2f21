"""Read the beginning that rows share, such as in-context examples, once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from quail_audit.engine.forgetting.models.batches import BatchSize, run_in_batches, token_bytes
from quail_audit.engine.forgetting.models.forward import Beginning, asking, read_beginning

LEAST_SHARED_TOKENS = 32  # below, sharing a beginning saves less than it costs


def count_shared(rows: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all rows begin with."""
    first, last = min(map(list, rows)), max(map(list, rows))  # what these two share, all between them share
    return next(
        (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )


def read_shared(model: PreTrainedModel, ids: Sequence[int]) -> Beginning | None:
    """Return what read_beginning does.

    Raises:
        EnvironmentProblemError: memory does not suffice for it.
    """
    token = token_bytes(model)

    def run(_: Sequence[int]) -> list[Beginning | None]:
        with asking(model, f"a text of {len(ids)} tokens"):
            return [read_beginning(model, ids)]

    ((_, beginning),) = run_in_batches([len(ids)], lambda length: length * token, BatchSize(1, None), run)
    return beginning
