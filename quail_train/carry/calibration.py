"""Run texts through a model block by block, and round each layer by its inputs.

The whole model is never in memory. The texts go through the embeddings, then through one transformer block after
another. Each block is loaded, its layers get their inputs and are rounded, and the texts go on through the rounded
block. compensation.py does the rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.model.model_class import model_class
from quail_audit.engine.forgetting.data.calibration_texts import read_texts
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_train.data.samples import read_training_data

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer

MOST_TEXTS = 128  # as in GPTQ's own calibration
MOST_TOKENS = 512  # per text
ROWS_AT_ONCE = 16

Rounding = Callable[["Layer", torch.Tensor], torch.Tensor]  # (layer, Hessian) -> its rounded weights [outputs, inputs]


def read_calibration_rows(path: str, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Read the texts to calibrate on, as token IDs: a data folder's retain set, or a file's lines or rows.

    Raises:
        BadInputError: the folder or file cannot be read, or holds no text.
    """
    place = Path(path)
    if place.is_dir() and (labelled := read_folder(place).labelled):
        rows = [list(tokenizer(row.text)["input_ids"])[:MOST_TOKENS] for row in labelled.get("retain", ())]
    elif place.is_dir():
        data = read_training_data(path, tokenizer, max_length=MOST_TOKENS, retain_needed_by=None)
        rows = [list(sample.ids) for sample in data.retain]
    else:
        rows = [list(tokenizer(text)["input_ids"])[:MOST_TOKENS] for text in read_texts(place, by_line=True)]
    rows = [row for row in rows if row]
    if not rows:
        raise BadInputError("holds no text to calibrate on", where=path, mend="Give a data folder, .txt or .jsonl")
    count = min(len(rows), MOST_TEXTS)  # spread over the whole set, whose questions come last
    return [rows[place * len(rows) // count] for place in range(count)]


def round_block_by_block(
    checkpoint: Checkpoint, layers: Sequence[Layer], rows: Sequence[Sequence[int]], rounding: Rounding
) -> Iterator[Layer]:
    """Round each layer by its inputs' Hessian, in the model whose earlier layers are rounded already.

    Memory: one transformer block, the embeddings, and the texts' hidden states.

    Args:
        checkpoint: checkpoint to round.
        layers: layers to round, in any order; all inside transformer blocks.
        rows: token IDs of the texts.
        rounding: called for each layer with float32 [columns, columns], the sum of x x' over its inputs.

    Yields:
        Each layer when it is rounded.

    Raises:
        BadInputError: the model has no blocks that run one after another, or a layer is not in one.
    """
    model = _empty_model(checkpoint)
    name_of_blocks, blocks = _find_blocks(model, layers, checkpoint.source)
    outside = [name for name in checkpoint.layout.tensor_of if not name.startswith(f"{name_of_blocks}.")]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # no block needs it
    unused = {f"{name}.weight" for name, module in model.named_modules() if module is head}
    _load(model, checkpoint, [name for name in outside if name not in unused])
    with torch.inference_mode():
        states = [_first_call(model, blocks[0], batch) for batch in _batches(rows)]
        for number, block in enumerate(blocks):
            prefix = f"{name_of_blocks}.{number}."
            _load(model, checkpoint, [name for name in checkpoint.layout.tensor_of if name.startswith(prefix)])
            in_block = {model.get_submodule(layer.name): layer for layer in layers if layer.name.startswith(prefix)}
            if not in_block and not any(_block_number(layer, name_of_blocks) > number for layer in layers):
                return
            for modules, calls in _modules_by_input(block, states, in_block):
                hessian = _hessian(block, states, modules[0], calls, in_block[modules[0]].shape[1])
                for module in modules:
                    weight = rounding(in_block[module], hessian)
                    _weight_of(module).copy_(weight.T if in_block[module].transposed else weight)
                    yield in_block[module]
            for state in states:
                state.advance(_hidden_states(block(*state.arguments, **state.keywords)))
            block.to(device="meta")


class _BlockCall:
    """The arguments that a block is called with, for one batch of texts."""

    def __init__(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.arguments = arguments
        self.keywords = keywords

    def advance(self, hidden: torch.Tensor) -> None:
        """Replace the hidden states [rows, tokens, hidden] for the next block; all other arguments stay."""
        if self.arguments:
            self.arguments = (hidden, *self.arguments[1:])
        else:
            self.keywords = {**self.keywords, "hidden_states": hidden}


class _StopForward(Exception):  # noqa: N818 - no error: ends a forward pass that has done its work
    def __init__(self, state: _BlockCall | None = None) -> None:
        super().__init__()
        self.state = state


def _empty_model(checkpoint: Checkpoint) -> PreTrainedModel:
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    base = checkpoint.adapter_of or checkpoint
    settings = dict(base.config)
    with quiet_transformers(), init_empty_weights(include_buffers=False):
        config = AutoConfig.for_model(settings.pop("model_type", ""), **settings)
        config.use_cache = False
        kind: Any = model_class(base.config)  # opening the checkpoint built its model already
        if kind.config_class.model_type != config.model_type:
            config = config.get_text_config()
        model: PreTrainedModel = kind._from_config(config, attn_implementation="eager")
    model.train(False)
    return model


def _find_blocks(model: nn.Module, layers: Sequence[Layer], where: str) -> tuple[str, nn.ModuleList]:
    """Return the name of the list of transformer blocks that holds all these layers, and the list."""
    found = {layer.name.split(f".{layer.block}.")[0] for layer in layers if layer.block is not None}
    outside = [layer.name for layer in layers if layer.block is None]
    if len(found) == 1 and not outside:
        (name,) = found
        modules = model.get_submodule(name)
        if isinstance(modules, torch.nn.ModuleList):
            return name, modules
    raise BadInputError(
        "calibration needs all layers inside transformer blocks that run one after another"
        + (f": {outside[0]} is not" if outside else ""),
        where=where,
        mend="Choose other --layers, or carry without --calibration",
    )


def _block_number(layer: Layer, name_of_blocks: str) -> int:
    return int(layer.name.removeprefix(f"{name_of_blocks}.").split(".")[0])


def _load(model: nn.Module, checkpoint: Checkpoint, names: Sequence[str]) -> None:
    from accelerate.utils import set_module_tensor_to_device

    for name in names:
        values = checkpoint.read(checkpoint.layout.tensor_of[name])
        set_module_tensor_to_device(model, name, "cpu", value=values.clone(), dtype=torch.float32)


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Yield texts of one length together, so that nothing is padded: int64 [rows, tokens]."""
    for _, alike in groupby(sorted(rows, key=len), key=len):
        texts = list(alike)
        for start in range(0, len(texts), ROWS_AT_ONCE):
            yield torch.tensor([list(row) for row in texts[start : start + ROWS_AT_ONCE]])


def _first_call(model: nn.Module, first: nn.Module, ids: torch.Tensor) -> _BlockCall:
    """Return the arguments that the first block is called with."""

    def stop(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        raise _StopForward(_BlockCall(arguments, keywords))

    hook = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(input_ids=ids)
    except _StopForward as stopped:
        if stopped.state is not None:
            return stopped.state
    finally:
        hook.remove()
    raise BadInputError("the model does not run its blocks one after another", where=type(model).__name__)


def _modules_by_input(
    block: nn.Module, states: Sequence[_BlockCall], modules: dict[nn.Module, Layer]
) -> list[tuple[list[nn.Module], int]]:
    """Group the modules by their input, in the order of their calls: q, k and v of a Llama are one group.

    Returns:
        (group, calls of its first module in one forward pass).
    """
    called: list[tuple[torch.Tensor, nn.Module]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, arguments: called.append((arguments[0], m))) for module in modules
    ]
    block(*states[0].arguments, **states[0].keywords)
    for hook in hooks:
        hook.remove()
    order = [list(alike) for _, alike in groupby(called, key=lambda call: id(call[0]))]
    groups = [list(dict.fromkeys(module for _, module in calls)) for calls in order]
    never = [module for module in modules if not any(module in group for group in groups)]
    # an expert that got no token in this batch may get some in another, or has nothing to calibrate on
    every = [*groups, *([module] for module in never)]
    times = Counter(module for _, module in called)
    return [(group, max(1, times[group[0]])) for group in every]


def _hessian(
    block: nn.Module, states: Sequence[_BlockCall], module: nn.Module, calls: int, columns: int
) -> torch.Tensor:
    """Return the sum of x x' over the module's inputs x [columns]; the block stops after the last of its calls."""
    total = torch.zeros(columns, columns)
    left = 0

    def add(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        inputs = arguments[0].reshape(-1, columns).float()
        total.addmm_(inputs.T, inputs)
        left -= 1
        if left == 0:
            raise _StopForward

    hook = module.register_forward_pre_hook(add)
    try:
        for state in states:
            left = calls
            with suppress(_StopForward):
                block(*state.arguments, **state.keywords)
    finally:
        hook.remove()
    return total


def _weight_of(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - a layer that a scheme rounds has one
    return weight


def _hidden_states(output: Any) -> torch.Tensor:
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
