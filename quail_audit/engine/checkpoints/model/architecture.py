"""Match a checkpoint's tensors with its model's modules, and find those a scheme rounds.

The answers are those of transformers on loading the checkpoint with a bitsandbytes configuration: the model is built
without weights from config.json, and the same functions choose its modules. Code that comes with a checkpoint is never
run, and no weights are read. transformers_rules.py has what depends on the version of transformers.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.config_file import OTHER_CONFIG, check_counts
from quail_audit.engine.checkpoints.model.conversion import Conversion, conversions_of
from quail_audit.engine.checkpoints.model.experts import Part, expert_parts
from quail_audit.engine.checkpoints.model.kept_parameters import TABLE, may_be_block_matrix, may_be_block_tensor
from quail_audit.engine.checkpoints.model.model_class import class_note, model_class
from quail_audit.engine.checkpoints.model.transformers_rules import (
    config_for_this_version,
    is_converted,
    modules_left,
    parameter_renaming,
    tied_weights,
)
from quail_audit.engine.checkpoints.weight_files import TensorInfo, short_list

if TYPE_CHECKING:
    import torch  # 1.6 s to import, transformers' models 2.8 s
    from transformers import PreTrainedModel

_HEAD = re.compile(r"^(lm_head|head|embed_out|output|score|classifier|classification_head)$")


@dataclass(frozen=True)
class Matrix:
    """A module whose weight a scheme rounds.

    Attributes:
        module: its name in the model: "model.layers.0.mlp.down_proj".
            An expert's is that of its weights in the files: "model.layers.0.mlp.experts.3.w1".
        transposed: whether its weight is stored [inputs, outputs], as in GPT-2's Conv1D. It is rounded as
            [outputs, inputs].
        part: its place in a parameter that holds several matrices; None if it is a module's whole weight.
    """

    module: str
    transposed: bool
    part: Part | None = None

    @property
    def parameter(self) -> str:
        """The parameter that it is, or lies in."""
        return self.part.parameter if self.part is not None else f"{self.module}.weight"

    @property
    def weight_name(self) -> str:
        """The name that its weight has, or would have if it were a module's."""
        return f"{self.module}.weight"

    def shape_in(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the matrix's (outputs, inputs), of its parameter's shape."""
        if self.part is None:
            first, second = shape
        else:
            first, second = shape[-2:]
            length = len(range(*self.part.outputs))
            first, second = (length, second) if self.part.side == 0 else (first, length)
        return (second, first) if self.transposed else (first, second)


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
        conversions: parameter -> how it is made, of those that are split or fused on loading.
        shapes: parameter -> its shape in the model, in model order; tied parameters are there once.
        unmeasured: parameters of the blocks that may be matrices and are not rounded: parameter -> weights. Stored
            tensors too, if they are no part of a class that stands in for the one that config.json names.
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
    conversions: Mapping[str, Conversion] = field(default_factory=dict, repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    unmeasured: Mapping[str, int] = field(default_factory=dict, repr=False)

    @cached_property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter -> shape, in model order, of those that the files hold, or what they are made of."""
        return {
            name: shape for name, shape in self.shapes.items() if name in self.tensor_of or name in self.conversions
        }

    @property
    def stored(self) -> tuple[str, ...]:
        """The stored tensors that the model's parameters are made of."""
        converted = (name for conversion in self.conversions.values() for name in conversion.names)
        return tuple(dict.fromkeys((*self.tensor_of.values(), *converted)))

    def sources(self, matrix: Matrix) -> tuple[str, ...]:
        """Return the stored tensors that a matrix is read from."""
        if (stored := self.tensor_of.get(matrix.parameter)) is not None:
            return (stored,)
        conversion = self.conversions[matrix.parameter]
        single = self._single_source(matrix)
        return conversion.names if single is None else (single,)

    def read(self, matrix: Matrix, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """Return a matrix as it is rounded: [outputs, inputs], contiguous. `read` returns a stored tensor by name."""
        stored, part = self.tensor_of.get(matrix.parameter), matrix.part
        if stored is not None:
            weight = read(stored)
            weight = weight if part is None else part.of(weight)
        elif (single := self._single_source(matrix)) is not None:
            weight = read(single)
        elif part is None or part.index is None:
            weight = self.conversions[matrix.parameter].make(read)
            weight = weight if part is None else part.of(weight)
        else:
            weight = part.of_expert(self.conversions[matrix.parameter].make_expert(read, part.index))
        return (weight.T if matrix.transposed else weight).contiguous()

    def _single_source(self, matrix: Matrix) -> str | None:
        part, conversion = matrix.part, self.conversions.get(matrix.parameter)
        if part is None or part.index is None or conversion is None:
            return None
        return conversion.single_source(part.index, part.number, part.parts)


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
    layout = _match_tensors(model, tensors, skip_modules, where)
    if not (note := class_note(config)):
        return layout
    beside = {  # the class that stands in does not read them, the one that is named may
        name: math.prod(shape)
        for name in layout.unused
        if may_be_block_tensor(name, shape := tensors[name].shape)
        and is_converted(name.removesuffix(".weight"), skip_modules or ())
    }
    return replace(layout, note=note, unmeasured={**layout.unmeasured, **beside})


def model_without_weights(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str
) -> PreTrainedModel | None:
    """Return config.json's model on the meta device; None if transformers knows none. Don't change it.

    Arguments and errors as in lay_out.
    """
    check_counts(config, tensors, where)
    return _build_empty_model(json.dumps(config, sort_keys=True), where) if config else None


def transposed_parameters(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str) -> frozenset[str]:
    """Return the weights that the model has as [inputs, outputs] (Conv1D). Arguments and errors as in lay_out."""
    from transformers.pytorch_utils import Conv1D

    model = model_without_weights(config, tensors, where)
    modules = () if model is None else model.named_modules()
    return frozenset(f"{name}.weight" for name, module in modules if isinstance(module, Conv1D))


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
    converted: list[tuple[str, str, str]] = []
    for name, info in tensors.items():
        renamed, pattern = rename(name)
        if pattern:
            converted.append((name, renamed, pattern))
        elif renamed in shapes:
            if info.shape != shapes[renamed]:
                raise BadInputError(
                    f"{printable(name)} is {list(info.shape)}, but config.json asks for {list(shapes[renamed])}",
                    where=where,
                    mend=OTHER_CONFIG,
                )
            parameter = tied_to.get(renamed, renamed)
            if renamed == parameter or parameter not in found:
                found[parameter] = name
        elif not _is_expected(model, renamed):
            unused.append(name)

    conversions = conversions_of(model, converted, lambda name: tensors[name].shape)
    rounded = _rounded_matrices(model, skip_modules)
    lacking = [matrix for matrix in rounded if matrix.parameter not in found and matrix.parameter not in conversions]
    if lacking and not converted:
        raise BadInputError(
            "config.json describes layers that the weight files do not hold: "
            f"{short_list([matrix.module for matrix in lacking])}",
            where=where,
            mend=f"{OTHER_CONFIG}; or copy the weight files that are missing into the folder",
        )
    parameters = [name for name in shapes if name not in tied_to]
    read = tuple(matrix for matrix in rounded if matrix.parameter in found or matrix.parameter in conversions)
    wholly = {matrix.parameter for matrix in read}
    return Layout(
        architecture=type(model).__name__,
        tensor_of={name: found[name] for name in parameters if name in found},
        rounded=read,
        left=tuple(
            module
            for module, parameter in _matrices_of(model)
            if parameter not in {matrix.parameter for matrix in rounded}
        ),
        parameter_of=parameter_of,
        unread=tuple(matrix.module for matrix in lacking),
        absent=() if converted else tuple(name for name in parameters if name not in found),
        unused=tuple(unused),
        conversions={name: conversions[name] for name in parameters if name in conversions},
        shapes={name: shapes[name] for name in parameters},
        unmeasured={
            name: math.prod(shapes[name])
            for name in parameters
            if name not in wholly and may_be_block_matrix(model, name, skip_modules)
        },
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
    found = [
        Matrix(name, isinstance(module, Conv1D))
        for name, module in model.named_modules()
        if isinstance(module, Conv1D) or type(module) is nn.Linear
    ]
    found += [Matrix(name, transposed, part) for name, transposed, part in expert_parts(model)]
    order = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    found.sort(key=lambda matrix: order.get(matrix.parameter, len(order)))
    return tuple(
        matrix
        for matrix in found
        if is_converted(matrix.module, left)
        and is_converted(matrix.parameter.removesuffix(".weight"), left)
        and matrix.parameter not in tied
    )


def _matrices_of(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Yield each module that has a matrix, once, with the parameter."""
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                yield name, f"{name}.{own}" if name else own
                break


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
    unmeasured: dict[str, int] = {}
    for name, info in tensors.items():
        module = name.removesuffix(".weight")
        role = module.rpartition(".")[2]
        skipped = _HEAD.search(role) if skip_modules is None else not is_converted(module, skip_modules)
        if name.endswith(".weight") and len(info.shape) == 2 and not TABLE.search(role) and not skipped:
            rounded.append(Matrix(module, transposed=False))
        elif len(info.shape) >= 2:
            left.append(module)
            if may_be_block_tensor(name, info.shape) and not skipped:
                unmeasured[name] = math.prod(info.shape)
    known = config.get("model_type")
    why = f"transformers knows no {printable(str(known), limit=60)!r} language model" if known else "has no config.json"
    return Layout(
        architecture=None,
        tensor_of={name: name for name in tensors},
        rounded=tuple(rounded),
        left=tuple(left),
        parameter_of=lambda name: name if name in tensors else None,
        shapes={name: info.shape for name, info in tensors.items()},
        unmeasured=unmeasured,
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
