"""Match a checkpoint's tensors with its model's modules, and find those a scheme rounds.

The answers are those of transformers on loading the checkpoint with a bitsandbytes configuration: the model is built
without weights from config.json, and the same functions choose its modules. Code that comes with a checkpoint is never
run, and no weights are read. transformers_rules.py has what depends on the version of transformers.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.model_class import class_note, model_class
from quail_audit.engine.checkpoints.transformers_rules import (
    config_for_this_version,
    is_converted,
    modules_left,
    parameter_renaming,
    tied_weights,
)
from quail_audit.engine.checkpoints.weight_files import TensorInfo, short_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_TABLE = re.compile(r"embed|^wte$|^wpe$|norm|^ln(_|\d|$)", re.IGNORECASE)
_HEAD = re.compile(r"^(lm_head|head|embed_out|output|score|classifier|classification_head)$")


@dataclass(frozen=True)
class Matrix:
    """A module whose weight a scheme rounds.

    Attributes:
        module: its name in the model: "model.layers.0.mlp.down_proj".
        transposed: whether its weight is stored [inputs, outputs], as in GPT-2's Conv1D. It is rounded as
            [outputs, inputs].
    """

    module: str
    transposed: bool

    @property
    def parameter(self) -> str:
        return f"{self.module}.weight"


@dataclass(frozen=True, eq=False)
class Layout:
    """A checkpoint's tensors, sorted by what they are.

    Attributes:
        architecture: the model's class; None if it is not known, so that names and shapes had to do.
        tensor_of: parameter of the model -> name of the stored tensor; tied parameters are there once.
        rounded: the modules that a scheme rounds, in model order.
        left: modules with a matrix that no scheme rounds, in model order: embeddings, the head.
        parameter_of: the parameter that a tensor of this name would be loaded into, or None.
        unread: modules that are rounded, but whose weights are split or fused as transformers loads them.
        absent: parameters of the model that the checkpoint lacks.
        unused: stored tensors that the model has no use for.
        note: what a reader should know about how this was found out; may be empty.
    """

    architecture: str | None
    tensor_of: Mapping[str, str]
    rounded: tuple[Matrix, ...]
    left: tuple[str, ...]
    parameter_of: Callable[[str], str | None] = field(repr=False)
    unread: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    note: str = ""


def lay_out(
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    skip_modules: tuple[str, ...] | None = None,
    where: str = "",
) -> Layout:
    """Match a checkpoint's tensors with the modules of its model.

    Args:
        config: its parsed config.json; empty if it has none.
        tensors: the stored tensors, by name.
        skip_modules: modules to leave in full precision instead of the default ones: transformers'
            `llm_int8_skip_modules`, with the same matching.
        where: the checkpoint's folder, for messages.

    Raises:
        BadInputError: config.json describes no model that can be built, or one that the tensors don't fit.
    """
    model = model_without_weights(config, tensors, where)
    if model is None:
        return _guess_layout(config, tensors, skip_modules)
    return replace(_match_tensors(model, tensors, skip_modules, where), note=class_note(config))


def model_without_weights(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str
) -> PreTrainedModel | None:
    """Return config.json's model on the meta device; None if transformers knows none. Don't change it.

    Arguments and errors as in lay_out.
    """
    _check_counts(config, tensors, where)
    return _build_empty_model(json.dumps(config, sort_keys=True), where) if config else None


def transposed_parameters(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str) -> frozenset[str]:
    """Return the weights that the model has as [inputs, outputs] (Conv1D). Arguments and errors as in lay_out."""
    from transformers.pytorch_utils import Conv1D

    model = model_without_weights(config, tensors, where)
    modules = () if model is None else model.named_modules()
    return frozenset(f"{name}.weight" for name, module in modules if isinstance(module, Conv1D))


def _check_counts(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse a model far larger than its weights: it would take hours or all memory to build, and cannot be loaded."""
    nested = [value for value in config.values() if isinstance(value, Mapping)]
    longest = max((side for info in tensors.values() for side in info.shape), default=0)
    limits = {**dict.fromkeys(_DEPTHS, len(tensors)), "num_labels": longest}
    for part in (config, *nested):
        for key, limit in limits.items():
            count = part.get(key)
            if isinstance(count, (int, float)) and count > limit:
                raise BadInputError(
                    f"says {key} = {printable(str(count), limit=40)}, more than the weight files have room for",
                    where=f"{where}/config.json",
                    mend="Copy or download the checkpoint again",
                )


@lru_cache(maxsize=2)  # the sides of a pair mostly share their config
def _build_empty_model(config_json: str, where: str) -> PreTrainedModel | None:
    """Build the model on the meta device, as transformers does before it loads weights; None for an unknown type."""
    import torch
    from transformers import CONFIG_MAPPING

    values: dict[str, Any] = json.loads(config_json)
    values.pop("auto_map", None)  # the checkpoint's own code
    kind: Any = model_class(values)
    if kind is None:
        return None
    model_type = str(values.get("model_type"))
    try:
        with silence_libraries(), torch.device("meta"):
            config: Any = CONFIG_MAPPING[model_type].from_dict(config_for_this_version(values))
            if kind.config_class.model_type != model_type:  # a language model that is part of a larger one
                config = config.get_text_config()
            # Eager: the fast kinds of attention have the same modules, and may not be installed.
            model: PreTrainedModel = kind._from_config(config, attn_implementation="eager")
            return model
    except Exception as error:  # a model's code may raise anything if values make no sense
        raise BadInputError(
            f"describes no {printable(model_type)} model that transformers can build: "
            f"{printable(f'{type(error).__name__}: {error}', limit=300)}",
            where=f"{where}/config.json",
            mend="Compare it with the config.json of the model it was made from",
        ) from error


def _match_tensors(
    model: PreTrainedModel, tensors: Mapping[str, TensorInfo], skip_modules: tuple[str, ...] | None, where: str
) -> Layout:
    tied_to = tied_weights(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    rename = parameter_renaming(model)

    def parameter_of(name: str) -> str | None:
        renamed, _ = rename(name)
        return tied_to.get(renamed, renamed) if renamed in shapes else None

    found: dict[str, str] = {}
    unused: list[str] = []
    converts = False
    for name, info in tensors.items():
        renamed, is_converted = rename(name)
        if is_converted:
            converts = True
        elif renamed in shapes:
            if info.shape != shapes[renamed]:
                raise BadInputError(
                    f"{printable(name)} is {list(info.shape)}, but config.json asks for {list(shapes[renamed])}",
                    where=where,
                    mend="Copy or download the checkpoint again",
                )
            parameter = tied_to.get(renamed, renamed)
            if renamed == parameter or parameter not in found:
                found[parameter] = name
        elif not _is_expected(model, renamed):
            unused.append(name)

    rounded = _rounded_matrices(model, skip_modules)
    names_of_rounded = {matrix.module for matrix in rounded}
    lacking = [matrix.module for matrix in rounded if matrix.parameter not in found]
    if lacking and not converts:
        raise BadInputError(
            f"config.json describes layers that the weight files do not hold: {short_list(lacking)}",
            where=where,
            mend="Copy or download the checkpoint again",
        )
    parameters = [name for name in shapes if name not in tied_to]
    return Layout(
        architecture=type(model).__name__,
        tensor_of={name: found[name] for name in parameters if name in found},
        rounded=tuple(matrix for matrix in rounded if matrix.parameter in found),
        left=tuple(
            name
            for name, module in model.named_modules()
            if name not in names_of_rounded
            and any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
        ),
        parameter_of=parameter_of,
        unread=tuple(lacking),
        absent=() if converts else tuple(name for name in parameters if name not in found),
        unused=tuple(unused),
    )


def _rounded_matrices(model: PreTrainedModel, skip_modules: tuple[str, ...] | None) -> tuple[Matrix, ...]:
    """Return what transformers' `replace_with_bnb_linear` replaces, less what it then ties to an unrounded weight.

    A classifier's head is left out too: transformers means to leave the last module alone, but misses one with a bias.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    left = modules_left(model, skip_modules)
    if skip_modules is None and type(model).__name__.endswith("ForSequenceClassification"):
        left += [name for name, _ in model.named_children() if name != model.base_model_prefix]
    tied_to = tied_weights(model)
    tied = {*tied_to, *tied_to.values()}
    return tuple(
        Matrix(name, isinstance(module, Conv1D))
        for name, module in model.named_modules()
        if (isinstance(module, Conv1D) or type(module) is nn.Linear)
        and is_converted(name, left)
        and f"{name}.weight" not in tied
    )


def _is_expected(model: PreTrainedModel, name: str) -> bool:
    """Tell whether transformers silently passes over a tensor that is no parameter: a buffer, mostly."""
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    buffers = {buffer for buffer, _ in model.named_buffers()}
    return name in buffers or "rotary_emb.inv_freq" in name or any(re.search(pattern, name) for pattern in ignored)


def _guess_layout(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], skip_modules: tuple[str, ...] | None
) -> Layout:
    """Take two-dimensional weights that are no embedding, norm or head by name: for models transformers lacks."""
    rounded: list[Matrix] = []
    left: list[str] = []
    for name, info in tensors.items():
        module = name.removesuffix(".weight")
        role = module.rpartition(".")[2]
        skipped = _HEAD.search(role) if skip_modules is None else not is_converted(module, skip_modules)
        if name.endswith(".weight") and len(info.shape) == 2 and not _TABLE.search(role) and not skipped:
            rounded.append(Matrix(module, transposed=False))
        elif len(info.shape) >= 2:
            left.append(module)
    known = config.get("model_type")
    why = f"transformers knows no {printable(str(known), limit=60)!r} language model" if known else "has no config.json"
    return Layout(
        architecture=None,
        tensor_of={name: name for name in tensors},
        rounded=tuple(rounded),
        left=tuple(left),
        parameter_of=lambda name: name if name in tensors else None,
        note=f"{why}: its layers were found by names and shapes, and may differ from those rounded in use",
    )


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Silence warnings of transformers and others, which the reader of a result cannot act on."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
