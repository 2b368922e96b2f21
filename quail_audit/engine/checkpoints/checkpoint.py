"""Open a checkpoint: a local folder, a GGUF file or a hub id; a model or an adapter.

A checkpoint that is quantized already reads as the weights that it stands for, and says how each is stored. Opening
reads names, shapes and types, never a weight.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.hub import fetch, parse_hub_id
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.adapter import CONFIG_NAME as ADAPTER_CONFIG_NAME
from quail_audit.engine.checkpoints.adapter import Adapter, open_adapter
from quail_audit.engine.checkpoints.architecture import Layout, Matrix, lay_out
from quail_audit.engine.checkpoints.packed.gguf import open_gguf
from quail_audit.engine.checkpoints.packed.interface import PackedFiles, PackedMatrix
from quail_audit.engine.checkpoints.packed.registry import open_packed
from quail_audit.engine.checkpoints.weight_files import (
    TensorInfo,
    WeightFiles,
    Weights,
    open_weight_files,
    read_json_object,
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
        return weight if parameter is None else self.adapter.apply(parameter, weight, parameter in self._transposed)

    def read_matrix(self, matrix: Matrix) -> torch.Tensor:
        """Return the weight of a module as it is rounded: [outputs, inputs], contiguous."""
        weight = self.read(self.layout.tensor_of[matrix.parameter])
        return weight.T.contiguous() if matrix.transposed else weight

    @property
    def packed(self) -> Mapping[str, PackedMatrix]:
        """The weights that are stored quantized, by the parameter of the model. An adapter, once merged, has none."""
        if not isinstance(self.files, PackedFiles):
            return {}
        matrices = self.files.matrices
        return {name: matrices[tensor] for name, tensor in self.layout.tensor_of.items() if tensor in matrices}

    def read_rounded(self, matrix: Matrix) -> RoundedMatrix | None:
        """Return a module's weight as it is stored, with its codes: [outputs, inputs]; None if it is not quantized.

        Raises:
            BadInputError: the weight can no longer be read, or makes no sense.
        """
        packed = self.packed.get(matrix.parameter)
        return None if packed is None else packed.unpack()

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that its weights are read from; an adapter has its own."""
        return tuple(dict.fromkeys(self.files.file_of.values()))

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
    def _transposed(self) -> frozenset[str]:
        return frozenset(matrix.parameter for matrix in self.layout.rounded if matrix.transposed)

    @property
    def facts(self) -> CheckpointFacts:
        """Facts for a report. An adapter's parameters and bytes are its own, its layers' types its base's."""
        layers = [self.layout.tensor_of[matrix.parameter] for matrix in self.layout.rounded]
        packed = self.files.matrices if isinstance(self.files, PackedFiles) else {}
        dtypes = Counter(
            packed[name].scheme if name in packed else str(self.info(name).dtype).removeprefix("torch.")
            for name in layers or self.names
        )
        counted = self.files.tensors if self.adapter else self.layout.tensor_of.values()
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
        notes = []
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
                notes.append(f"not measured, because transformers splits or fuses them: {short_list(layout.unread)}")
            if self.scheme is not None:
                notes.extend(self._notes_on_storage())
        elif self.adapter_of and self.adapter.base_name not in ("", self.adapter_of.source):
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
        if plain := [matrix.module for matrix in self.layout.rounded if matrix.parameter not in packed]:
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
    path, revision = _locate(source)
    try:
        return _open_folder(source, path, revision, base) if path.is_dir() else _open_gguf_file(source, path, revision)
    except OSError as error:
        raise unreadable_error(path, error) from error


def borrow_config(other: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint as another's config.json describes it; as it is if that has none either.

    Raises:
        BadInputError: its tensors don't fit that description.
    """
    if not other.config:
        return checkpoint
    layout = lay_out(other.config, checkpoint.files.tensors, where=str(checkpoint.folder))
    return replace(checkpoint, config=other.config, layout=layout, borrowed_from=other.source)


def check_layer_types(checkpoint: Checkpoint, matrices: tuple[Matrix, ...]) -> None:
    """Refuse layers whose weights are not of a floating-point type that is rounded in practice.

    Raises:
        BadInputError: says which.
    """
    wrong = [
        f"{tensor} ({dtype})"
        for tensor in (checkpoint.layout.tensor_of[matrix.parameter] for matrix in matrices)
        if (dtype := str(checkpoint.info(tensor).dtype).removeprefix("torch.")) not in _LAYER_DTYPES
    ]
    if wrong:
        raise BadInputError(
            f"layers should be {', '.join(_LAYER_DTYPES[:-1])} or {_LAYER_DTYPES[-1]}; these are not: "
            f"{short_list(wrong)}",
            where=str(checkpoint.folder),
            mend="Give it in one of these, or quantized in a format that Quail reads",
        )


def _locate(source: str) -> tuple[Path, str | None]:
    """Return the folder of a checkpoint, or its GGUF file, and its commit if it came from a hub."""
    try:
        path = Path(source).expanduser()
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no such home
        raise BadInputError(f"is not a usable path: {printable(str(error), limit=200)}", where=source) from error
    if is_folder:
        return path, None
    if exists and path.suffix.lower() == ".gguf":
        return path, None
    if exists:
        raise BadInputError(
            "is a file; a checkpoint is a folder, or a GGUF file", where=source, mend=f"Name its folder: {path.parent}"
        )
    hub_id = None if source.startswith((".", "~", os.sep)) else parse_hub_id(source)
    if hub_id is None:
        raise BadInputError(
            "there is no such folder",
            where=source,
            mend="Check the path. A model on a hub is written org/name or org/name@revision",
        )
    fetched = fetch(hub_id)
    return fetched.folder, fetched.commit


def _open_folder(source: str, folder: Path, revision: str | None, base: Checkpoint | None) -> Checkpoint:
    if not any(folder.iterdir()):
        raise BadInputError("the folder is empty", where=str(folder))
    files = open_weight_files(folder, safetensors=_safetensors_name(folder), torch_bin="pytorch_model.bin")
    if (folder / ADAPTER_CONFIG_NAME).exists():
        if files is not None:
            raise BadInputError(
                "holds both a model and an adapter",
                where=str(folder),
                mend="Keep the one to audit in a folder of its own",
            )
        return _open_adapter_folder(source, folder, revision, base)

    config = read_json_object(folder / "config.json") if (folder / "config.json").exists() else {}
    ggufs = sorted(folder.glob("*.gguf"))
    if files is None and len(ggufs) == 1:
        return _open_gguf_file(source, ggufs[0], revision)
    if files is None or not files.tensors:
        raise _no_weights_error(folder, files, ggufs)
    weights: Weights = files
    if config.get("quantization_config"):
        weights = open_packed(config, files, str(folder / "config.json"))
        config = {name: value for name, value in config.items() if name != "quantization_config"}
    layout = lay_out(config, weights.tensors, where=str(folder))
    checkpoint = Checkpoint(source, folder, revision, config, layout, weights)
    return borrow_config(base, checkpoint) if base is not None and not config else checkpoint


def _safetensors_name(folder: Path) -> str:
    """Return transformers' name for the weight file, or AutoGPTQ's if there is just one of those."""
    found = sorted(folder.glob("gptq_model-*.safetensors"))
    return found[0].name if len(found) == 1 else "model.safetensors"


def _open_gguf_file(source: str, path: Path, revision: str | None) -> Checkpoint:
    if not path.is_file():  # a pipe or a device would block or never end
        raise BadInputError("is not a regular file", where=str(path))
    config, weights = open_gguf(path)
    layout = lay_out(config, weights.tensors, where=str(path))
    return Checkpoint(source, path.parent, revision, config, layout, weights, gguf=path)


def _open_adapter_folder(source: str, folder: Path, revision: str | None, base: Checkpoint | None) -> Checkpoint:
    if base is None or base.adapter is not None:
        raise BadInputError(
            "is an adapter, and there is no whole model to apply it to",
            where=str(folder),
            mend="Give the model that it was trained on as ORIGINAL, and the adapter as UNLEARNED or --retrain",
        )
    files = open_weight_files(folder, safetensors="adapter_model.safetensors", torch_bin="adapter_model.bin")
    if files is None:
        raise BadInputError(
            "has an adapter_config.json, but no adapter_model.safetensors or adapter_model.bin", where=str(folder)
        )
    adapter = open_adapter(folder, files, base.files.tensors, base.layout)
    return Checkpoint(source, folder, revision, base.config, base.layout, files, adapter=adapter, adapter_of=base)


def _no_weights_error(folder: Path, files: WeightFiles | None, ggufs: list[Path]) -> BadInputError:
    if files is not None:
        return BadInputError("its weight files hold no tensors", where=str(folder))
    if ggufs:
        return BadInputError(
            f"holds several GGUF files: {short_list([path.name for path in ggufs])}",
            where=str(folder),
            mend=f"Name the one to audit: {ggufs[0]}",
        )
    found = sorted(path.name for path in folder.iterdir())
    return BadInputError(
        f"holds no weights: expected model.safetensors or pytorch_model.bin, single or with an index; "
        f"found {short_list(found)}",
        where=str(folder),
    )
