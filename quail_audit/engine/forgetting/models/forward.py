"""Run a model over rows of token ids: all at once, in stretches, or continued greedily.

These are the ways there are; ways.py finds out which of them leave a model's answers as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from quail_audit.core.errors import BadInputError, QuailError
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.models.batches import is_out_of_memory
from quail_audit.engine.forgetting.models.quiet import quiet_transformers

MEASURE_WEIGHTS_ONLY = "Leave --data out to measure weights only"

IsOver = Callable[[Sequence[int]], bool]
Beginning = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values by layer


def vocabulary_of(model: PreTrainedModel) -> int:
    """Return how many tokens a model has an embedding for."""
    embeddings: Any = model.get_input_embeddings()
    weight = getattr(embeddings, "weight", None)
    return int(weight.shape[0]) if weight is not None else read_model_config(model.config).vocabulary or 1


def filler_id(model: PreTrainedModel, end_ids: Collection[int] = ()) -> int:
    """Return a token that the model has an embedding for, to fill rows up with: its own for that, if it has one."""
    own, vocabulary = read_model_config(model.config).padding_id, vocabulary_of(model)
    return next((token for token in (own, *end_ids) if token is not None and token < vocabulary), 0)


@contextmanager
def asking(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Turn whatever a model raises when it is asked, but running out of memory, into an error that says so.

    Raises:
        BadInputError: the model failed on `what`, such as "a text of 70 tokens".
    """
    try:
        yield
    except QuailError:
        raise
    except Exception as error:  # a model's own code, on its own settings, may fail in any way
        if is_out_of_memory(error):
            raise
        raise BadInputError(
            f"{type(model).__name__} of transformers fails on {what}: {reason_of(error)}", mend=MEASURE_WEIGHTS_ONLY
        ) from error


def reason_of(error: Exception) -> str:
    """Return an error's kind and its first line."""
    return ": ".join((type(error).__name__, *str(error).strip().splitlines()[:1]))


# -- log-probabilities: ids [rows, length] -> logits [rows, length, vocabulary]


def logits_at_once(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of every position, read without a cache: the plain way."""
    found: torch.Tensor = model(ids, use_cache=False).logits
    return found


def logits_over_cache(model: PreTrainedModel, ids: torch.Tensor, stretch: int) -> Iterator[torch.Tensor]:
    """Yield the logits of so many positions at a time, each stretch read after the cache of those before.

    Raises:
        TypeError: the model keeps no cache.
    """
    cache = None
    for start in range(0, ids.shape[1], stretch):
        output: Any = model(ids[:, start : start + stretch], past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise TypeError(f"{type(model).__name__} keeps no cache")
        yield output.logits


def logits_by_head(model: PreTrainedModel, ids: torch.Tensor, stretch: int) -> Iterator[torch.Tensor]:
    """Yield the logits of so many positions at a time, made by the head from what the layers give for all at once.

    Raises:
        TypeError: the model has no head of its own.
    """
    library: Any = model  # transformers types this by halves
    head = library.get_output_embeddings()
    if head is None or model.base_model is model:
        raise TypeError(f"{type(model).__name__} has no head of its own")
    hidden: torch.Tensor = model.base_model(ids, use_cache=False)[0]
    for start in range(0, ids.shape[1], stretch):
        yield head(hidden[:, start : start + stretch])


def logits_after_beginning(model: PreTrainedModel, ids: torch.Tensor, beginning: Beginning) -> torch.Tensor:
    """Return the logits of ids that come after a beginning, which all rows share; see read_beginning."""
    output: Any = model(ids, past_key_values=_repeat_cache(beginning, ids.shape[0]), use_cache=True)
    found: torch.Tensor = output.logits
    return found


# -- greedy continuations: prompts in, new ids out


def continue_padded(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    is_over: IsOver | None = None,
    shared: int = 0,
    beginning: Beginning | None = None,
) -> list[list[int]]:
    """Continue prompts together, padded on the left, over a cache.

    Args:
        model, prompts, max_new_tokens, end_ids, is_over: as in generate().
        shared: tokens that all prompts begin with, whose keys and values are in `beginning`.
        beginning: see read_beginning(); None: everything is read.

    Returns:
        The new ids, with an end token and padding after it.
    """
    return _continue_padded(model, prompts, max_new_tokens, end_ids, is_over, shared, beginning, logits=False)[0]


def logits_padded(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], steps: int, beginning: tuple[int, Beginning] | None = None
) -> tuple[list[list[int]], torch.Tensor]:
    """Return what continue_padded() does in so many steps: new ids, and the logits [rows, steps, vocabulary]."""
    shared, read = beginning or (0, None)
    never = [vocabulary_of(model)]
    return _continue_padded(model, prompts, steps, never, None, shared, read, logits=True)


def _continue_padded(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_ids: Collection[int],
    is_over: IsOver | None,
    shared: int,
    beginning: Beginning | None,
    *,
    logits: bool,
) -> tuple[list[list[int]], Any]:
    vocabulary = vocabulary_of(model)
    padding = filler_id(model, end_ids)
    ids, mask = _pad_left(prompts, shared, padding)
    width = ids.shape[1]
    library: Any = model  # transformers types generate() by halves
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_ids) or [vocabulary],  # else transformers takes the model's own
        pad_token_id=padding,
        use_cache=True,
    )
    criteria = StoppingCriteriaList([_StopEarly(is_over, width)] if is_over else [])
    more: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True} if logits else {}
    if beginning is not None:
        more["past_key_values"] = _repeat_cache(beginning, len(prompts))
    with quiet_transformers(), _without_own_settings(library):
        found = library.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            stopping_criteria=criteria,
            **more,
        )
    if logits:
        return found.sequences[:, width:].tolist(), torch.stack(found.logits, dim=1)
    return found[:, width:].tolist(), None


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """Keep a model's own penalties, forced tokens and the like from what is generated."""
    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own


def continue_plainly(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    is_over: IsOver | None = None,
) -> list[list[int]]:
    """Continue prompts of one length, reading all of them anew for each token. Otherwise as continue_padded()."""
    ids = torch.tensor([list(prompt) for prompt in prompts], device=model.device)
    width, over = ids.shape[1], [False] * len(prompts)
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            chosen = logits_at_once(model, ids)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, chosen], dim=1)
        rows = ids[:, width:].tolist()
        over = [
            before or row[-1] in end_ids or (is_over is not None and is_over(row))
            for before, row in zip(over, rows, strict=True)
        ]
        if all(over):
            break
    return ids[:, width:].tolist()


def read_beginning(model: PreTrainedModel, ids: Sequence[int]) -> Beginning | None:
    """Return keys and values of a beginning, by layer; None if a layer keeps something else, or only a window."""
    from transformers.cache_utils import DynamicLayer  # not in 4.47, where no beginning is shared

    with torch.no_grad():
        output = model.base_model(torch.tensor([ids], device=model.device), use_cache=True)  # without the head
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _repeat_cache(beginning: Beginning, rows: int) -> DynamicCache:
    return DynamicCache([tuple(part.expand(rows, -1, -1, -1) for part in layer) for layer in beginning])


class _StopEarly(StoppingCriteria):
    """Ends the rows whose rest is not needed."""

    def __init__(self, is_over: IsOver, width: int) -> None:
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
