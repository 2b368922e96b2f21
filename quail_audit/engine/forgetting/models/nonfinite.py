"""Refuse a model whose logits are NaN or infinite, and name the first layer that they come from.

The largest logit of a position tells: it is NaN if one is, infinite if one is, and minus infinity if all are. A model
may mask some tokens with minus infinity, so one such logit is none of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable

PROMPTS_TRIED = 4  # if the row that broke does not break again by itself
R = TypeVar("R")


class NonfiniteLogitsError(BadInputError):
    """The logits of a model are NaN or infinite.

    Attributes:
        ids: the tokens of the row at which that showed, as far as they are known.
    """

    ids: Sequence[int] = ()


class _FoundError(Exception):
    """Ends a forward pass, since the module is found."""


def refuse_nonfinite(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> NoReturn:
    """Refuse a model that gave logits that are NaN or infinite.

    Args:
        model: the model.
        rows: token ids that it gave them on, the likeliest first.

    Raises:
        NonfiniteLogitsError: always; names the first module in the order of execution whose output is not finite.
    """
    names = (first_nonfinite_module(model, row) for row in rows if len(row))
    name = next((name for name in names if name), None)
    wider = "Compute in a wider type, --dtype bfloat16 or --dtype float32. If that does not help, such"
    raise NonfiniteLogitsError(
        "the model's logits are NaN or infinite"
        + (f", first the output of {printable(name)} ({model.dtype})".replace("torch.", "") if name else ""),
        mend=("Such" if model.dtype == torch.float32 else wider)
        + " a model cannot be deployed: take a checkpoint from before it broke, or make it again",
    )


def first_nonfinite_module(model: PreTrainedModel, ids: Sequence[int]) -> str | None:
    """Run a model on one row; return the first module, in the order of execution, whose output is not finite.

    The head of a language model is not run, because the logits of a long row take much memory: it is the head if all
    else is finite but the logits are not. Of a module and those inside it the innermost is named.

    Args:
        model: the model, on its device.
        ids: of the row.
    """
    found: list[str] = []

    def look_at(name: str) -> Any:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            if any(not bool(part.isfinite().all()) for part in _tensors_in(output)):
                found.append(name)
                raise _FoundError

        return hook

    head = _head_of(model)
    asked: Any = model if head is None else model.base_model
    handles = [module.register_forward_hook(look_at(name)) for name, module in model.named_modules() if name]
    try:
        with torch.inference_mode():
            asked(torch.tensor([list(ids)], device=model.device))
    except _FoundError:
        return found[0]
    except Exception:
        return None
    finally:
        for handle in handles:
            handle.remove()
    if head is None:
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


def _head_of(model: PreTrainedModel) -> nn.Module | None:
    """Return the head of a language model; None if it has none, as a classifier."""
    try:
        untyped: Any = model  # transformers 5 types this by halves
        head: nn.Module | None = untyped.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return head


def generate_finite(model: PreTrainedModel, generated: Iterator[R], prompts: Sequence[Sequence[int]]) -> Iterator[R]:
    """Pass on what is generated, as long as every logit that decides a token is finite.

    Without this a NaN would decide for the first token of the vocabulary.

    Args:
        model: the one that generates.
        generated: see generation.generate().
        prompts: token ids of all prompts.

    Raises:
        NonfiniteLogitsError: see refuse_nonfinite().
    """
    handle = model.register_forward_hook(_LastLogits(), with_kwargs=True)
    try:
        yield from generated
    except NonfiniteLogitsError as error:
        handle.remove()
        longest = sorted(prompts, key=len, reverse=True)[:PROMPTS_TRIED]
        refuse_nonfinite(model, [error.ids, *longest])
    finally:
        handle.remove()


class _LastLogits:
    """Looks at the logits of each row's last position after every forward pass; padding, if any, is on the left.

    Attributes:
        read: token ids of the passes since the last one that read more than a token.
    """

    def __init__(self) -> None:
        self.read: list[torch.Tensor] = []

    def __call__(self, _model: nn.Module, arguments: Any, named: Mapping[str, Any], output: Any) -> None:
        logits = getattr(output, "logits", None)
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if not isinstance(logits, torch.Tensor) or logits.dim() != 3:
            return
        if isinstance(ids, torch.Tensor):
            goes_on = ids.shape[1] == 1 and bool(self.read) and self.read[-1].shape[0] == ids.shape[0]
            self.read = [*self.read, ids] if goes_on else [ids]
        is_broken = ~logits[:, -1].amax(dim=-1).isfinite()
        if not bool(is_broken.any()):
            return
        error = NonfiniteLogitsError("the model's logits are NaN or infinite")
        if self.read:
            row, mask = int(is_broken.int().argmax()), named.get("attention_mask")
            tokens = torch.cat(self.read, dim=1)[row]
            if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] >= len(tokens):
                tokens = tokens[mask[row, -len(tokens) :].bool()]
            error.ids = tokens.tolist()
        raise error


def _tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of floating-point numbers that a module gave."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
        return
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    for part in parts:
        yield from _tensors_in(part)
