"""Open the checkpoints of an audit, check that they fit, and read them layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import Checkpoint, borrow_config, check_layer_types, open_checkpoint
from quail_audit.engine.checkpoints.fit import check_fit, resized_tables
from quail_audit.engine.checkpoints.model.architecture import Layout, Matrix, lay_out
from quail_audit.engine.checkpoints.model.experts import NOTE as EXPERTS_NOTE
from quail_audit.engine.checkpoints.model.experts import Part
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
        part: its place in a parameter that holds several matrices, as experts lie; None if it is a module's weight.
    """

    name: str
    block: int | None
    role: str
    shape: tuple[int, int]
    weights: int
    transposed: bool
    part: Part | None = None

    @property
    def matrix(self) -> Matrix:
        """The matrix that it is."""
        return Matrix(self.name, self.transposed, self.part)


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
        return self.original.read_matrix(layer.matrix), self.unlearned.read_matrix(layer.matrix)


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
    fit_notes = [note for other in others for note in check_fit(first, other)]
    matrices = _matrices_to_audit(layout, (first, others[0]))
    if not matrices:
        raise BadInputError(
            "holds no layer that a scheme would round",
            where=str(first.folder),
            mend="Check that it is a language model, and the list of skipped modules",
        )
    for checkpoint in (first, *others):
        check_layer_types(checkpoint, matrices)
    return Pair(
        original=first,
        unlearned=others[0],
        retrain=others[1] if retrain is not None else None,
        layers=tuple(_layer(matrix, layout) for matrix in matrices),
        left_in_full_precision=tuple(name for name in layout.left if name not in {each.module for each in matrices}),
        notes=tuple(
            dict.fromkeys(
                (
                    *(note for checkpoint in (first, *others) for note in checkpoint.notes),
                    *fit_notes,
                    *_share_notes(layout, matrices),
                    *([EXPERTS_NOTE] if any(matrix.part is not None for matrix in matrices) else []),
                )
            )
        ),
    )


def _matrices_to_audit(layout: Layout, sides: tuple[Checkpoint, Checkpoint]) -> tuple[Matrix, ...]:
    """Return what a scheme rounds by default, and what either side stores quantized: an embedding, the head."""
    known = {matrix.module: matrix for matrix in layout.rounded}
    stored: dict[Matrix, None] = {}
    for side in sides:
        for name, packed in side.packed.items():
            module = name.removesuffix(".weight")
            stored.setdefault(known.get(module, Matrix(module, packed.transposed)))
    original, other = sides
    reshaped = resized_tables(original, other)
    theirs = other.layout.parameters
    on_one_side = () if other.adapter_of else (name for name in layout.parameters if name not in theirs)
    left = {*reshaped, *on_one_side}
    if not stored and not left:
        return layout.rounded
    order = {name: place for place, name in enumerate(layout.parameters) if name not in left}
    found = (matrix for matrix in dict.fromkeys((*layout.rounded, *stored)) if matrix.parameter in order)
    return tuple(sorted(found, key=lambda matrix: order[matrix.parameter]))


def _share_notes(layout: Layout, matrices: tuple[Matrix, ...]) -> list[str]:
    """Say how much of the blocks' weights is measured, if it is not all."""
    read = {matrix.parameter for matrix in matrices}
    left = {name: weights for name, weights in layout.unmeasured.items() if name not in read}
    if not left:
        return []
    measured = sum(math.prod(matrix.shape_in(layout.shapes[matrix.parameter])) for matrix in matrices)
    share = math.floor(100 * measured / (measured + sum(left.values())))
    return [f"measured: {share} % of the blocks' weights; not rounded: {short_list(list(left))}"]


def _layer(matrix: Matrix, layout: Layout) -> Layer:
    shape = matrix.shape_in(layout.shapes[matrix.parameter])
    parts = matrix.module.split(".")
    return Layer(
        name=matrix.module,
        block=next((int(part) for part in parts if part.isdecimal()), None),
        role=_role(parts),
        shape=shape,
        weights=math.prod(shape),
        transposed=matrix.transposed,
        part=matrix.part,
    )


def _role(parts: list[str]) -> str:
    match parts:
        case [*_, "attention", "output", "dense"]:
            return "attention_output"
        case [*_, ("intermediate" | "output" | "pooler") as role, "dense"]:
            return role
    return next((part for part in reversed(parts) if not part.isdecimal()), ".".join(parts))
