"""Generate greedily in batches, token ids in and out.

Prompts are sorted by length and padded on the left; a beginning that all prompts share, such as in-context examples, is
read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from quail_audit.engine.forgetting.models.batches import BatchSize, run_in_batches, token_bytes
from quail_audit.engine.forgetting.models.quiet import quiet_transformers

LEAST_SHARED_TOKENS = 32  # below, sharing a beginning saves less than it costs
# Rotary embeddings that depend on the length of the whole text: its beginning is not the same in all of them.
LENGTH_DEPENDENT_ROTATIONS = frozenset({"dynamic", "longrope"})


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
        end_ids: a continuation ends before the first of these.
        size: size of the batches; lowered if memory runs out.
        is_over: says from the new ids so far whether the rest is not needed; the continuation may then be longer than
            needed, never shorter.

    Yields:
        Each prompt's index and its continuation's ids, as batches are done.
    """
    token, vocabulary = token_bytes(model), model.config.get_text_config(decoder=True).vocab_size
    shared = _shared_length(model, prompts)
    beginning = None
    if shared:
        read = run_in_batches(
            [shared],
            lambda length: length * token,
            BatchSize(1, None),
            lambda _: [_read_beginning(model, prompts[0][:shared])],
        )
        ((_, beginning),) = read
    if beginning is None:
        shared = 0
    pad_id = next(iter(end_ids), 0)
    library: Any = model  # transformers types generate() by halves
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(end_ids) or None, pad_token_id=pad_id
    )

    def run(batch: Sequence[int]) -> list[list[int]]:
        ids, mask = _pad_left([prompts[index] for index in batch], shared, pad_id)
        width = ids.shape[1]
        criteria = StoppingCriteriaList([_StopEarly(is_over, width)] if is_over else [])
        cache = {"past_key_values": _repeat_cache(beginning, len(batch))} if beginning is not None else {}
        with quiet_transformers():
            found = library.generate(
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                stopping_criteria=criteria,
                **cache,
            )
        return [_cut_at_end(row, end_ids) for row in found[:, width:].tolist()]

    yield from run_in_batches(
        [len(prompt) for prompt in prompts],
        lambda length: (length + max_new_tokens) * token + 8 * vocabulary,
        size,
        run,
    )


class _StopEarly(StoppingCriteria):
    """Ends the rows whose rest is not needed."""

    def __init__(self, is_over: Callable[[Sequence[int]], bool], width: int) -> None:
        self.is_over = is_over
        self.width = width
        self.over: list[bool] = []

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        rows = input_ids[:, self.width :].tolist()
        self.over = self.over or [False] * len(rows)
        self.over = [over or self.is_over(row) for over, row in zip(self.over, rows, strict=True)]
        return torch.tensor(self.over, device=input_ids.device)  # type: ignore[return-value]


def _pad_left(prompts: Sequence[Sequence[int]], shared: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask [prompts, longest]; the padding comes after the shared beginning, which is read already."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, :shared] = torch.tensor(prompt[:shared])
        mask[row, :shared] = 1
        first = longest - len(prompt) + shared
        ids[row, first:] = torch.tensor(prompt[shared:])
        mask[row, first:] = 1
    return ids, mask


def _cut_at_end(ids: list[int], end_ids: Collection[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in end_ids), ids)


def _shared_length(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all prompts begin with, if it pays to read them apart; else 0.

    Padding then lies between that beginning and the rest, which only models that are told each token's position are
    indifferent to: those with rotary embeddings.
    """
    config = model.config.get_text_config(decoder=True)
    rotation = getattr(config, "rope_parameters", None)
    if len(prompts) < 2 or not rotation or rotation.get("rope_type", "default") in LENGTH_DEPENDENT_ROTATIONS:
        return 0
    first, last = min(map(list, prompts)), max(map(list, prompts))  # what these two share, all between them share
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = min(same, min(map(len, prompts)) - 1)
    return shared if shared >= LEAST_SHARED_TOKENS else 0


def _read_beginning(model: PreTrainedModel, ids: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """Return keys and values of a beginning, by layer; None if a layer keeps something else, or only a window."""
    from transformers.cache_utils import DynamicLayer  # not in 4.47, where no beginning is shared

    with torch.no_grad():
        output = model.base_model(torch.tensor([ids], device=model.device), use_cache=True)  # without the head
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _repeat_cache(beginning: list[tuple[torch.Tensor, torch.Tensor]], rows: int) -> DynamicCache:
    expanded = [tuple(part.expand(rows, -1, -1, -1) for part in layer) for layer in beginning]
    return DynamicCache(expanded)
