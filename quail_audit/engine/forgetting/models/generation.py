"""Generate greedily in batches, token ids in and out.

Prompts are sorted by length and padded on the left; a beginning that all prompts share, such as in-context examples, is
read once. Neither is done to a model that would answer otherwise: see ways.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from transformers import PreTrainedModel

from quail_audit.engine.forgetting.models.batches import BatchSize, run_in_batches, token_bytes
from quail_audit.engine.forgetting.models.beginnings import LEAST_SHARED_TOKENS, count_shared, read_shared
from quail_audit.engine.forgetting.models.forward import (
    Beginning,
    asking,
    continue_padded,
    continue_plainly,
    vocabulary_of,
)
from quail_audit.engine.forgetting.models.ways import LENGTH_DEPENDENT_ROTATIONS, ways_of


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    size: BatchSize,
    is_over: Callable[[Sequence[int]], bool] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Continue each prompt with the likeliest token, again and again.

    Args:
        model: a model in eval mode.
        prompts: token ids, at least one for each.
        max_new_tokens: the most tokens to generate for each prompt.
        end_ids: a continuation ends before the first of these. Those that the model has no embedding for are ignored.
        size: size of the batches; lowered if memory runs out.
        is_over: says from the new ids so far whether the rest is not needed; the continuation may then be longer than
            needed, never shorter.

    Yields:
        Each prompt's index and its continuation's ids, as batches are done.

    Raises:
        BadInputError: the model fails when it is asked, or has no answer (see ways.py).
        EnvironmentProblemError: memory does not suffice for one prompt.
    """
    if not prompts:
        return
    token, vocabulary, ways = token_bytes(model), vocabulary_of(model), ways_of(model)
    ends = [end for end in end_ids if end < vocabulary]
    shared, beginning = _share_beginning(model, prompts)

    def run(batch: Sequence[int]) -> list[list[int]]:
        rows = [prompts[index] for index in batch]
        with asking(model, f"a prompt of {max(map(len, rows))} tokens and {max_new_tokens} more"):
            if ways.caches:
                found = continue_padded(
                    model,
                    rows,
                    max_new_tokens=max_new_tokens,
                    end_ids=ends,
                    is_over=is_over,
                    shared=shared,
                    beginning=beginning,
                )
            else:
                found = continue_plainly(model, rows, max_new_tokens=max_new_tokens, end_ids=ends, is_over=is_over)
        return [_cut_at_end(row, ends) for row in found]

    yield from run_in_batches(
        [len(prompt) for prompt in prompts],
        lambda length: (length + max_new_tokens) * token + 8 * vocabulary,
        size,
        run,
        fits=lambda first, other: ways.fits_generation(first + max_new_tokens, other + max_new_tokens),
    )


def _cut_at_end(ids: list[int], end_ids: Collection[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in end_ids), ids)


def _share_beginning(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> tuple[int, Beginning | None]:
    """Return the length of the beginning that is read once, and what was read of it."""
    shared = _shared_length(model, prompts)
    if not shared or not ways_of(model).shares_beginning:
        return 0, None
    beginning = read_shared(model, prompts[0][:shared])
    return (0, None) if beginning is None else (shared, beginning)


def _shared_length(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all prompts begin with, if it pays to read them apart; else 0.

    Padding then lies between that beginning and the rest, which only models that are told each token's position are
    indifferent to: those with rotary embeddings.
    """
    config = model.config.get_text_config(decoder=True)
    rotation = getattr(config, "rope_parameters", None)
    if len(prompts) < 2 or not rotation or rotation.get("rope_type", "default") in LENGTH_DEPENDENT_ROTATIONS:
        return 0
    shared = min(count_shared(prompts), min(map(len, prompts)) - 1)
    return shared if shared >= LEAST_SHARED_TOKENS else 0
