"""Load the model that training begins with, and freeze all but the layers that it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models.device import find_dtype
from quail_audit.engine.forgetting.models.forward import vocabulary_of
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.forgetting.models.tokenizer import TOKENIZER_FILES, load_tokenizer

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.schema.requests import TrainRequest

LORA_RANK = 16
LORA_ALPHA = 32


def refuse_other_tokenizer(pair: Pair) -> None:
    """Refuse a pair whose tokenizers differ: logits could not be compared. A missing tokenizer is allowed.

    Raises:
        BadInputError: they differ, or one cannot be read.
        EnvironmentProblemError: a package that reads one is missing.
    """
    vocabularies = []
    for checkpoint in (pair.original, pair.unlearned):
        if not any((checkpoint.folder / name).exists() for name in TOKENIZER_FILES):
            return
        tokenizer, _ = load_tokenizer(checkpoint, None)
        vocabularies.append(tokenizer.get_vocab())
    first, second = vocabularies
    if first != second:
        differing = len(set(first.items()) ^ set(second.items()))
        raise BadInputError(
            f"its tokenizer is not that of {pair.original.source}: the vocabularies differ in {differing} entries",
            where=str(pair.unlearned.folder),
            mend="Both checkpoints need the same tokens: copy the original's tokenizer files",
        )


def load_source(
    source: Checkpoint, pair: Pair, request: TrainRequest
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """Return the model that training begins with, on the CPU in the dtype of training, its tokenizer, and notes.

    Raises:
        QuailError: the model cannot be loaded.
    """
    dtype = find_dtype(request.dtype) or torch.float32
    arm = load_arm(
        source,
        None,
        layers=pair.layers,
        device="cpu",
        dtype=str(dtype).removeprefix("torch."),
        tokenizer_of=pair.original if source is pair.unlearned else pair.unlearned,
    )
    _refuse_foreign_tokens(arm.model, arm.tokenizer, str(source.folder))
    _disable_dropout(arm.model)
    return arm.model, arm.tokenizer, arm.notes


def _refuse_foreign_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    known = vocabulary_of(model)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= known:
        raise BadInputError(
            f"the tokenizer does not belong to this model: it gives token {largest}, the model knows {known}",
            where=where,
            mend="Put the model's own tokenizer files beside its weights",
        )


def _disable_dropout(model: PreTrainedModel) -> None:
    """Turn dropout off: the loss compares logits with the original's, and noise is not forgetting."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def freeze_all_but(model: PreTrainedModel, layers: Sequence[Layer], *, lora: bool) -> dict[str, nn.Module]:
    """Train only these layers' weights, or LoRA's on them. Return layer -> its module in the model."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if lora:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            target_modules=[layer.name for layer in layers],
            fan_in_fan_out=all(layer.transposed for layer in layers),
        )
        inject_adapter_in_model(config, model)
        return {layer.name: model.get_submodule(layer.name) for layer in layers}
    modules = {layer.name: model.get_submodule(layer.name) for layer in layers}
    for module in modules.values():
        weight: Any = module.weight
        weight.requires_grad_(True)
    return modules


def unmovable_share(model: PreTrainedModel, learning_rate: float) -> float:
    """Return the share of the trained weights that one AdamW step cannot change in their own dtype.

    A step moves a weight by about the learning rate, whatever its gradient (Kingma and Ba, arXiv 1412.6980, section
    2.1). A move under half the distance to the weight's neighbours is rounded away.
    """
    stuck, total = 0, 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            weight = parameter.detach()
            stuck += int(((weight + learning_rate == weight) & (weight - learning_rate == weight)).sum())
            total += weight.numel()
    return stuck / total
