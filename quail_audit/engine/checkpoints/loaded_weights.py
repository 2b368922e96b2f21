"""Give a folder's tensors as transformers loads them: under the model's names, in the model's dtype.

Layers are compared, and arms are loaded, from these: never from the files directly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.config_file import dtype_name
from quail_audit.engine.checkpoints.model.architecture import Layout, lay_out, model_without_weights
from quail_audit.engine.checkpoints.model.transformers_rules import kept_in_float32
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles, short_list
from quail_audit.engine.checkpoints.wrapper_names import find_bare_names

if TYPE_CHECKING:
    import torch  # 1.6 s to import

_CAST = ("float64", "float32", "float16", "bfloat16")  # dtypes that a model is loaded in, and weights are cast from

_TRANSFORMERS_NAME = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """The tensors of a folder as its model has them. Implements Weights.

    Attributes:
        files: the stored tensors.
        tensors: name in the model's spelling -> shape and the dtype that it is loaded in.
        stored: the same names -> their names in the files.
        notes: what a reader should know about the difference.
    """

    files: WeightFiles
    tensors: Mapping[str, TensorInfo]
    stored: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """The files' format, in words."""
        return self.files.format

    @property
    def size_bytes(self) -> int:
        """Bytes of all the files together."""
        return self.files.size_bytes

    @property
    def file_of(self) -> Mapping[str, Path]:
        """Name -> the file that holds it."""
        return {name: self.files.file_of[stored] for name, stored in self.stored.items()}

    @property
    def is_as_transformers_reads_it(self) -> bool:
        """True for safetensors files under transformers' names that hold the tensors by the same names and dtypes."""
        return (
            self.files.format == "safetensors"
            and self.tensors == self.files.tensors
            and all(_TRANSFORMERS_NAME.fullmatch(file.name) for file in self.files.file_of.values())
        )

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in the dtype that it is loaded in. See WeightFiles.read."""
        return self.files.read(self.stored[name]).to(self.tensors[name].dtype)


def load_weights(config: Mapping[str, Any], files: WeightFiles, where: str) -> tuple[LoadedWeights, Layout]:
    """Return a folder's tensors as transformers loads them, and what each is.

    Args:
        config: its parsed config.json; empty if there is none.
        files: the stored tensors; none of them packed.
        where: the checkpoint's folder, for messages.

    Raises:
        BadInputError: config.json describes no model that can be built, or one that the tensors don't fit.
    """
    loading_dtype(config, files.tensors, where)  # refuses one that no model can be built in
    names = find_bare_names(config, files.tensors, where)
    notes = []
    if names.wrappers:
        wrappers = ", ".join(f"{printable(wrapper, limit=80)}." for wrapper in names.wrappers)
        notes.append(f"its tensors were saved inside a wrapper; {wrappers} was taken off their names")
    tensors = {name: files.tensors[stored] for name, stored in names.stored.items()}
    layout = lay_out(config, tensors, where=where)
    notes += _check_index(files, layout, where)
    cast, note = _cast(config, tensors, layout, where)
    return LoadedWeights(files, cast, names.stored, (*notes, *note)), layout


def loading_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str) -> torch.dtype:
    """Return the dtype that a model is loaded in: config.json's; else that of its first floating-point tensor.

    The rule is that of transformers' from_pretrained(dtype="auto").

    Raises:
        BadInputError: config.json names a dtype that no model can be loaded in.
    """
    import torch

    named = dtype_name(config)
    if named is not None:
        if named not in _CAST:
            raise BadInputError(
                f"names the dtype {printable(named, limit=60)!r}, in which no model can be loaded",
                where=f"{where}/config.json",
                mend='Write the dtype that the model is deployed in: "dtype": "bfloat16"',
            )
        found: torch.dtype = getattr(torch, named)
        return found
    return next((info.dtype for info in tensors.values() if _is_cast(info.dtype)), torch.float32)


def _is_cast(dtype: torch.dtype) -> bool:
    return str(dtype).removeprefix("torch.") in _CAST


def _cast(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], layout: Layout, where: str
) -> tuple[dict[str, TensorInfo], list[str]]:
    """Return the tensors in the dtypes that they are loaded in, and a note if one is stored in another."""
    dtype = loading_dtype(config, tensors, where)
    others = [name for name, info in tensors.items() if _is_cast(info.dtype) and info.dtype != dtype]
    cast = dict(tensors)
    if not others:
        return cast, []
    name_of = str(dtype).removeprefix("torch.")
    model = model_without_weights({**config, "dtype": name_of}, tensors, where) if config else None
    own_dtype = None if model is None else kept_in_float32(model, dtype)
    stored: Counter[str] = Counter()
    for name in others:
        parameter = layout.parameter_of(name)
        if parameter is None:
            continue  # no part of the model
        target = dtype if own_dtype is None else own_dtype(parameter)
        if tensors[name].dtype != target:
            stored[str(tensors[name].dtype).removeprefix("torch.")] += 1
            cast[name] = tensors[name]._replace(dtype=target)
    if not stored:
        return cast, []
    kinds = ", ".join(kind for kind, _ in stored.most_common())
    part = "" if sum(stored.values()) == len(tensors) else f"{sum(stored.values())} of {len(tensors)} tensors are "
    why = "as config.json says" if dtype_name(config) else "as its first weight is, since config.json names no dtype"
    return cast, [f"{part}stored in {kinds}, loaded and compared in {name_of}, {why}"]


def _check_index(files: WeightFiles, layout: Layout, where: str) -> list[str]:
    """Return a note if the index names tensors that no file holds, and that the model can do without.

    Raises:
        BadInputError: the model needs one of them.
    """
    if not files.unheld:
        return []
    needed = [
        name
        for name in files.unheld
        if layout.architecture is None
        or layout.parameter_of(name) not in (None, *layout.tensor_of, *layout.conversions)
    ]
    if needed or layout.unread:
        raise BadInputError(
            f"its index names tensors that the files do not hold: {short_list(needed or files.unheld)}",
            where=where,
            mend="Save the model again, or get the files from where it was saved: compare their sizes and hashes",
        )
    return [f"its index names tensors that no file holds and no model needs: {short_list(files.unheld)}"]
