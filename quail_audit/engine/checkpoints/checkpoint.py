"""Open a checkpoint: a local folder, a GGUF file or a hub id; a model or an adapter.

A checkpoint that is quantized already reads as the weights that it stands for, and says how each is stored. Opening
reads names, shapes and types, never a weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.adapters.adapter import CONFIG_NAME as ADAPTER_CONFIG_NAME
from quail_audit.engine.checkpoints.adapters.adapter import Adapter, open_adapter
from quail_audit.engine.checkpoints.config_file import read_config
from quail_audit.engine.checkpoints.folders import Place, locate, open_weights
from quail_audit.engine.checkpoints.foreign_formats import is_split_gguf, no_weights_error, refuse_split_gguf
from quail_audit.engine.checkpoints.loaded_weights import LoadedWeights, load_weights, loading_dtype
from quail_audit.engine.checkpoints.model.architecture import Layout, Matrix, lay_out
from quail_audit.engine.checkpoints.packed.gguf import open_gguf
from quail_audit.engine.checkpoints.packed.interface import PackedFiles, PackedMatrix
from quail_audit.engine.checkpoints.packed.registry import find_packing
from quail_audit.engine.checkpoints.weight_files import (
    TensorInfo,
    WeightFiles,
    Weights,
    open_weight_files,
    short_list,
    unreadable_error,
)
from quail_audit.engine.schemes.rounded import RoundedMatrix
from quail_audit.schema.figures import CheckpointFacts

if TYPE_CHECKING:
    import torch  # 1.6 s to import

_LAYER_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's weights, readable one at a time. Holds no file open and no weight in memory.

    Attributes:
        source: its name as the user gave it.
        folder: the folder of its files on this machine.
        revision: its commit on the hub, if it came from there.
        config: its config.json, parsed, less its quantization_config; an adapter has its base's; {} if there is none.
        layout: what its tensors are, with the modules that are rounded by default.
        files: its weights, by name; packed ones read as what they stand for.
        borrowed_from: the checkpoint whose config.json stands in for its own, if it has none.
        adapter: how its base is changed, if it is an adapter.
        adapter_of: its base, if it is an adapter.
        gguf: the file, if it is a GGUF file.
        found: notes on how its files were found.
    """

    source: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    layout: Layout
    files: Weights
    borrowed_from: str | None = None
    adapter: Adapter | None = None
    adapter_of: Checkpoint | None = None
    gguf: Path | None = None
    found: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The stored tensors of the model; an adapter has its base's."""
        return self.adapter_of.names if self.adapter_of else tuple(self.files.tensors)

    def info(self, name: str) -> TensorInfo:
        """Shape and type of a stored tensor, known without reading it."""
        return self.adapter_of.info(name) if self.adapter_of else self.files.tensors[name]

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor as it is stored, on the CPU; an adapter's is merged. It may be mapped: don't write to it.

        Raises:
            KeyError: there is no such tensor.
            BadInputError: its file can no longer be read, or the adapter cannot be merged.
        """
        if self.adapter is None or self.adapter_of is None:
            return self.files.read(name)
        parameter = self.layout.parameter_of(name)
        weight = self.adapter_of.read(name)
        return weight if parameter is None else self.adapter.apply(parameter, weight, self.adapter_of.read_parameter)

    def read_parameter(self, name: str) -> torch.Tensor | None:
        """Return a parameter of the model by its name there, tied or not; None if no stored tensor is loaded into it.

        Raises: as read.
        """
        tensor = self.layout.tensor_of.get(name) or self.layout.tensor_of.get(self.layout.parameter_of(name) or "")
        return None if tensor is None else self.read(tensor)

    def read_matrix(self, matrix: Matrix) -> torch.Tensor:
        """Return a matrix as it is rounded: [outputs, inputs], contiguous. It may be mapped: don't write to it."""
        return self.layout.read(matrix, self.read)

    @cached_property
    def packed(self) -> Mapping[str, PackedMatrix]:
        """The weights that are stored quantized, by the parameter of the model. An adapter, once merged, has none.

        An expert's matrix that is stored by itself has its name, followed by ".weight".
        """
        if not isinstance(self.files, PackedFiles):
            return {}
        matrices = self.files.matrices
        found = {name: matrices[tensor] for name, tensor in self.layout.tensor_of.items() if tensor in matrices}
        for matrix in self.layout.rounded:
            if matrix.part is not None and len(sources := self.layout.sources(matrix)) == 1 and sources[0] in matrices:
                found[matrix.weight_name] = matrices[sources[0]]
        return found

    def read_rounded(self, matrix: Matrix) -> RoundedMatrix | None:
        """Return a module's weight as it is stored, with its codes: [outputs, inputs]; None if it is not quantized.

        Raises:
            BadInputError: the weight can no longer be read, or makes no sense.
        """
        packed = self.packed.get(matrix.weight_name)
        return None if packed is None else packed.unpack()

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that its weights are read from; an adapter has its own."""
        return tuple(dict.fromkeys(self.files.file_of.values()))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that its model is loaded in, and deployed; an adapter's is its base's."""
        return loading_dtype(self.config, (self.adapter_of or self).files.tensors, str(self.folder))

    @property
    def is_converted(self) -> bool:
        """True if the files do not hold the weights as the model has them: packed, or in a GGUF file."""
        return bool(self.packed) or self.gguf is not None

    @property
    def scheme(self) -> str | None:
        """The scheme in which most of its weights are stored, as `--scheme` names it; None if none is quantized."""
        weights: Counter[str] = Counter()
        for matrix in self.packed.values():
            weights[matrix.scheme] += math.prod(matrix.info.shape)
        return max(weights, key=lambda scheme: weights[scheme]) if weights else None

    @property
    def facts(self) -> CheckpointFacts:
        """Facts for a report. An adapter's parameters and bytes are its own, its layers' types its base's."""
        layers = [self.layout.sources(matrix)[0] for matrix in self.layout.rounded]
        packed = self.files.matrices if isinstance(self.files, PackedFiles) else {}
        dtypes = Counter(
            packed[name].scheme if name in packed else str(self.info(name).dtype).removeprefix("torch.")
            for name in layers or self.names
        )
        counted = self.files.tensors if self.adapter else self.layout.stored
        return CheckpointFacts(
            source=self.source,
            revision=self.revision,
            architecture=self.layout.architecture,
            format="LoRA adapter" if self.adapter else self.files.format,
            dtypes=tuple(dtype for dtype, _ in dtypes.most_common()),
            parameters=sum(math.prod(self.files.tensors[name].shape) for name in counted),
            size_bytes=self.files.size_bytes,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for a reader of the result."""
        notes = [*self.found, *(self.files.notes if isinstance(self.files, LoadedWeights) else ())]
        if self.adapter is None:
            layout = self.layout
            if self.borrowed_from is not None:
                notes.append(f"has no config.json; that of {self.borrowed_from} was used")
            if layout.note:
                notes.append(layout.note)
            if layout.absent:
                notes.append(f"lacks {short_list(layout.absent)}: loaded as a model, these start at random")
            if layout.unused:
                notes.append(f"holds tensors that are no part of {layout.architecture}: {short_list(layout.unused)}")
            if layout.unread:
                notes.append(f"not measured, since the files lack what they are made of: {short_list(layout.unread)}")
            if self.scheme is not None:
                notes.extend(self._notes_on_storage())
        elif self.adapter_of:
            notes.extend(self.adapter.notes)
            if self.adapter_of.packed:
                notes.append(
                    f"its base is stored as {self.adapter_of.scheme}; it was merged into the dequantized weights"
                )
            if self.adapter.base_name not in ("", self.adapter_of.source):
                trained_on = printable(self.adapter.base_name, limit=200)
                notes.append(f"the adapter names {trained_on} as its base; it was applied to {self.adapter_of.source}")
        return tuple(f"{self.source}: {note}" for note in notes)

    def _notes_on_storage(self) -> list[str]:
        packed = self.packed
        others = Counter(matrix.scheme for matrix in packed.values() if matrix.scheme != self.scheme)
        notes = [f"is quantized already ({self.scheme}) and is audited as it is stored"]
        if others:
            kinds = ", ".join(f"{count} as {scheme}" for scheme, count in others.most_common())
            notes.append(f"not all its matrices are stored as {self.scheme}: {kinds}")
        if plain := [matrix.module for matrix in self.layout.rounded if matrix.weight_name not in packed]:
            notes.append(f"not quantized, though most layers are: {short_list(plain)}")
        return notes


def open_checkpoint(source: str, *, base: Checkpoint | None = None) -> Checkpoint:
    """Open a checkpoint for reading, and fetch it first if it is on a hub.

    Args:
        source: a local folder, a GGUF file, or `org/name` or `org/name@revision`; a path that exists wins.
        base: the checkpoint that an adapter is applied to, and whose config.json stands in if there is none.

    Raises:
        BadInputError: it cannot be read as a checkpoint: which file, what is wrong, what to do.
        EnvironmentProblemError: it could not be fetched.
    """
    try:
        place = locate(source)
    except OSError as error:
        raise unreadable_error(Path(source), error) from error
    try:
        return _open_folder(source, place, base) if place.path.is_dir() else _open_gguf_file(source, place)
    except OSError as error:
        raise unreadable_error(place.path, error) from error


def borrow_config(other: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint as another's config.json describes it; as it is if that has none either.

    Raises:
        BadInputError: its tensors don't fit that description.
    """
    if not other.config:
        return checkpoint
    stored = checkpoint.files.files if isinstance(checkpoint.files, LoadedWeights) else checkpoint.files
    assert isinstance(stored, WeightFiles)  # noqa: S101 - packed and GGUF files have a configuration
    weights, layout = load_weights(other.config, stored, str(checkpoint.folder))
    return replace(checkpoint, config=other.config, files=weights, layout=layout, borrowed_from=other.source)


def check_layer_types(checkpoint: Checkpoint, matrices: tuple[Matrix, ...]) -> None:
    """Refuse layers whose weights are not of a floating-point type that is rounded in practice.

    Raises:
        BadInputError: says which.
    """
    wrong = [
        f"{tensor} ({dtype})"
        for tensor in dict.fromkeys(name for matrix in matrices for name in checkpoint.layout.sources(matrix))
        if (dtype := str(checkpoint.info(tensor).dtype).removeprefix("torch.")) not in _LAYER_DTYPES
    ]
    if wrong:
        raise BadInputError(
            f"layers should be {', '.join(_LAYER_DTYPES[:-1])} or {_LAYER_DTYPES[-1]}; these are not: "
            f"{short_list(wrong)}",
            where=str(checkpoint.folder),
            mend="Give it in one of these, or quantized in a format that Quail reads",
        )


def _open_folder(source: str, place: Place, base: Checkpoint | None) -> Checkpoint:
    folder = place.path
    files, notes = open_weights(folder)
    if (folder / ADAPTER_CONFIG_NAME).exists():
        if files is not None:
            raise BadInputError(
                "holds both a model and an adapter",
                where=str(folder),
                mend="Keep the one to audit in a folder of its own",
            )
        return _open_adapter_folder(source, place, base)

    described = read_config(folder / "config.json") if (folder / "config.json").exists() else {}
    ggufs = sorted(folder.glob("*.gguf"))
    if files is None and (len(ggufs) == 1 or (ggufs and is_split_gguf(ggufs[0]))):
        return _open_gguf_file(source, replace(place, path=ggufs[0]))
    if files is None or not files.tensors:
        raise _no_weights_error(folder, files, ggufs)
    own, stored, packing_note = find_packing(described, files, folder)
    notes = (*place.notes, *notes, *packing_note)
    if isinstance(stored, PackedFiles):
        layout = lay_out(own, stored.tensors, where=str(folder))
        return Checkpoint(source, folder, place.revision, own, layout, stored, found=notes)
    borrowed = base if base is not None and not own and base.config else None
    config = borrowed.config if borrowed else own
    weights, layout = load_weights(config, files, str(folder))
    return Checkpoint(
        source,
        folder,
        place.revision,
        config,
        layout,
        weights,
        borrowed_from=borrowed.source if borrowed else None,
        found=notes,
    )


def _open_gguf_file(source: str, place: Place) -> Checkpoint:
    path = place.path
    if not path.is_file():  # a pipe or a device would block or never end
        raise BadInputError("is not a regular file", where=str(path))
    refuse_split_gguf(path)
    config, weights = open_gguf(path)
    layout = lay_out(config, weights.tensors, where=str(path))
    return Checkpoint(source, path.parent, place.revision, config, layout, weights, gguf=path, found=place.notes)


def _open_adapter_folder(source: str, place: Place, base: Checkpoint | None) -> Checkpoint:
    folder = place.path
    if base is None or base.adapter is not None:
        raise BadInputError(
            "is an adapter, and there is no whole model to apply it to",
            where=str(folder),
            mend="Give the model that it was trained on as ORIGINAL, and the adapter as UNLEARNED or --retrain",
        )
    files = open_weight_files(folder, safetensors="adapter_model.safetensors", torch_bin="adapter_model.bin")
    if files is None or files.unheld:
        raise BadInputError(
            f"its index names tensors that the files do not hold: {short_list(files.unheld)}"
            if files is not None
            else "has an adapter_config.json, but no adapter_model.safetensors or adapter_model.bin",
            where=str(folder),
        )
    adapter = open_adapter(folder, files, base.config, base.files.tensors, base.layout)
    return Checkpoint(
        source,
        folder,
        place.revision,
        base.config,
        base.layout,
        files,
        adapter=adapter,
        adapter_of=base,
        found=place.notes,
    )


def _no_weights_error(folder: Path, files: WeightFiles | None, ggufs: list[Path]) -> BadInputError:
    if files is not None:
        return BadInputError("its weight files hold no tensors", where=str(folder))
    if ggufs:
        return BadInputError(
            f"holds several GGUF files: {short_list([path.name for path in ggufs])}",
            where=str(folder),
            mend=f"Name the one to audit: {ggufs[0]}",
        )
    return no_weights_error(folder)
