"""Open the checkpoints of an audit, check that they fit, and read them layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.architecture import Layout, Matrix, lay_out
from quail_audit.engine.checkpoints.checkpoint import Checkpoint, borrow_config, check_layer_types, open_checkpoint
from quail_audit.engine.checkpoints.weight_files import short_list

if TYPE_CHECKING:
    import torch  # 1.6 s to import


@dataclass(frozen=True)
class Layer:
    """One quantizable weight matrix of a pair.

    Attributes:
        name: the module's name in the model: model.layers.0.mlp.down_proj.
        block: its transformer block, if the name tells.
        role: the last part of its name that is no number: down_proj. BERT calls three of its layers dense; they are
            attention_output, intermediate and output, its pooler's is pooler.
        shape: (outputs, inputs), as it is rounded and as `Pair.read` gives it.
        weights: number of weights.
        transposed: whether it is stored the other way round, as GPT-2's Conv1D.
    """

    name: str
    block: int | None
    role: str
    shape: tuple[int, int]
    weights: int
    transposed: bool


@dataclass(frozen=True, eq=False)
class Pair:
    """Checkpoints that fit together.

    Attributes:
        original: the model before unlearning.
        unlearned: the model after it.
        retrain: the retrained reference, if one is given.
        layers: what a scheme rounds, or either side stores quantized, in model order.
        left_in_full_precision: modules with a matrix that no scheme rounds: embeddings, the head.
        notes: what the reader of a result should know.
    """

    original: Checkpoint
    unlearned: Checkpoint
    retrain: Checkpoint | None
    layers: tuple[Layer, ...]
    left_in_full_precision: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def read(self, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the layer's weights, (original, unlearned): `layer.shape` each, contiguous, on the CPU, in own dtypes.

        They are mapped from their files if possible, and released when dropped. Don't write to them.

        Raises:
            BadInputError: a file can no longer be read, or an adapter cannot be merged.
        """
        matrix = Matrix(layer.name, layer.transposed)
        return self.original.read_matrix(matrix), self.unlearned.read_matrix(matrix)


def open_pair(
    original: str, unlearned: str, retrain: str | None = None, skip_modules: tuple[str, ...] | None = None
) -> Pair:
    """Open the checkpoints of an audit and check that they fit together.

    Args:
        original: a local folder or a Hugging Face id.
        unlearned: the same, or a LoRA adapter on the original.
        retrain: as unlearned; the reference that never saw the forget set.
        skip_modules: modules to leave in full precision instead of the default ones, as transformers'
            `llm_int8_skip_modules`.

    Raises:
        BadInputError: one cannot be read, or they don't fit together: what is in one and not in the other.
        EnvironmentProblemError: one could not be fetched.
    """
    first = open_checkpoint(original)
    others = [open_checkpoint(source, base=first) for source in (unlearned, retrain) if source is not None]
    if not first.config:
        first = borrow_config(others[0], first)
    layout = lay_out(first.config, first.files.tensors, skip_modules, str(first.folder))
    matrices = _matrices_to_audit(layout, (first, others[0]))
    if not matrices:
        raise BadInputError(
            "holds no layer that a scheme would round",
            where=str(first.folder),
            mend="Check that it is a language model, and the list of skipped modules",
        )
    for other in others:
        _check_fit(first, other)
    for checkpoint in (first, *others):
        check_layer_types(checkpoint, matrices)
    return Pair(
        original=first,
        unlearned=others[0],
        retrain=others[1] if retrain is not None else None,
        layers=tuple(_layer(matrix, first, layout) for matrix in matrices),
        left_in_full_precision=tuple(name for name in layout.left if name not in {each.module for each in matrices}),
        notes=tuple(dict.fromkeys(note for checkpoint in (first, *others) for note in checkpoint.notes)),
    )


def _matrices_to_audit(layout: Layout, sides: tuple[Checkpoint, ...]) -> tuple[Matrix, ...]:
    """Return what a scheme rounds by default, and what either side stores quantized: an embedding, the head."""
    stored = {
        Matrix(name.removesuffix(".weight"), matrix.transposed)
        for side in sides
        for name, matrix in side.packed.items()
    }
    if not stored:
        return layout.rounded
    order = {name: place for place, name in enumerate(layout.tensor_of)}
    found = (matrix for matrix in {*layout.rounded, *stored} if matrix.parameter in order)
    return tuple(sorted(found, key=lambda matrix: order[matrix.parameter]))


def _check_fit(original: Checkpoint, other: Checkpoint) -> None:
    if other.adapter_of is not None:
        return  # opening it compared it with its base, the original
    # llama.cpp calls a Mistral a Llama, which it is by its weights
    keys = (("model_type", "architectures"),) if original.gguf is None and other.gguf is None else ()
    for key, word in (*keys, ("vocab_size", "vocabularies")):
        ours, theirs = (_text_model_value(checkpoint.config, key) for checkpoint in (original, other))
        if ours is not None and theirs is not None and ours != theirs:
            raise BadInputError(
                f"the {word} differ: {key} is {printable(str(theirs), limit=60)} here, and "
                f"{printable(str(ours), limit=60)} in {original.source}",
                where=str(other.folder),
                mend="Both must be the same model, before and after unlearning",
            )
    tensors, other_tensors = original.layout.tensor_of, other.layout.tensor_of
    reasons = []
    if lacking := [name for name in tensors if name not in other_tensors]:
        reasons.append(f"it lacks {short_list(lacking)}")
    if extra := [name for name in other_tensors if name not in tensors]:
        reasons.append(f"it has {short_list(extra)} besides")
    if reshaped := [
        f"{name} {list(other.info(other_tensors[name]).shape)} instead of {list(original.info(tensor).shape)}"
        for name, tensor in tensors.items()
        if name in other_tensors and original.info(tensor).shape != other.info(other_tensors[name]).shape
    ]:
        reasons.append(f"of other shapes are {short_list(reshaped)}")
    if reasons:
        raise BadInputError(
            f"does not fit {original.source}: {'; '.join(reasons)}",
            where=str(other.folder),
            mend="Both must be the same model, before and after unlearning",
        )


def _text_model_value(config: Mapping[str, Any], key: str) -> object:
    text = config.get("text_config")
    return config.get(key, text.get(key) if isinstance(text, Mapping) else None)


def _layer(matrix: Matrix, original: Checkpoint, layout: Layout) -> Layer:
    first, second = original.info(layout.tensor_of[matrix.parameter]).shape
    parts = matrix.module.split(".")
    return Layer(
        name=matrix.module,
        block=next((int(part) for part in parts if part.isdecimal()), None),
        role=_role(parts),
        shape=(second, first) if matrix.transposed else (first, second),
        weights=math.prod((first, second)),
        transposed=matrix.transposed,
    )


def _role(parts: list[str]) -> str:
    match parts:
        case [*_, "attention", "output", "dense"]:
            return "attention_output"
        case [*_, ("intermediate" | "output" | "pooler") as role, "dense"]:
            return role
    return next((part for part in reversed(parts) if not part.isdecimal()), ".".join(parts))
