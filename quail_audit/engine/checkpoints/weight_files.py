"""Find the weight files of a folder, list what they hold, and read one tensor at a time.

Files are mapped anew for each tensor, so that its pages leave memory with it. Everything here is hostile until checked:
no pickle is run, no path leads out of the folder, and a file that is not what its name says is bad input.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from quail_audit.core.errors import BadInputError
from quail_audit.core.paths import is_inside
from quail_audit.core.untrusted import printable

if TYPE_CHECKING:
    import torch  # 1.6 s to import

WeightFormat = Literal["safetensors", "pytorch .bin"]

# Names in a safetensors header -> torch's. https://github.com/huggingface/safetensors (format), without the types below
# one byte, which none of the formats that Quail reads has.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_LFS_POINTER = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_SHOWN = 3  # names that an error lists before it counts


class TensorInfo(NamedTuple):
    """Shape and dtype of a stored tensor, known before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Weights(Protocol):
    """Weights by name, one at a time: a folder's files, or what packed ones stand for."""

    @property
    def format(self) -> str:
        """The files' format, in words."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype, in the order of the files."""

    @property
    def file_of(self) -> Mapping[str, Path]:
        """Name, as it is stored -> the file that holds it."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all the files together."""

    def read(self, name: str) -> torch.Tensor:
        """See WeightFiles.read."""


@dataclass(frozen=True, eq=False)
class WeightFiles:
    """The tensors of a folder, by name. Holds no file open.

    Attributes:
        format: the files' format.
        tensors: name -> shape and dtype, in the order of the files.
        file_of: name -> the file that holds it.
        size_bytes: bytes of all the files together.
        unheld: tensors that the index names, and that no file holds.
    """

    format: WeightFormat
    tensors: Mapping[str, TensorInfo]
    file_of: Mapping[str, Path]
    size_bytes: int
    unheld: tuple[str, ...] = ()

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, mapped from its file: contiguous, on the CPU, in its own dtype. Don't write to it.

        The mapping ends with the tensor and its views.

        Raises:
            KeyError: there is no such tensor.
            BadInputError: the file can no longer be read, or has changed since it was opened.
        """
        file = self.file_of[name]
        tensor = _read_safetensors(file, name) if self.format == "safetensors" else _read_bin(file, name)
        if (tuple(tensor.shape), tensor.dtype) != self.tensors[name]:
            raise BadInputError(f"{printable(name)} changed while it was being read", where=str(file))
        # A file need not align its tensors, and compiled loops over unaligned arrays are other loops.
        return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def open_weight_files(folder: Path, *, safetensors: str, torch_bin: str) -> WeightFiles | None:
    """Find the weight files of a folder, single or sharded, and read what they hold but not the weights.

    Args:
        folder: an existing folder.
        safetensors: name of the single safetensors file; sharded ones are listed in NAME.index.json.
        torch_bin: the same for files of torch.save, used only if there are no safetensors.

    Returns:
        None if the folder has none of them.

    Raises:
        BadInputError: a file is truncated, corrupt, not a regular file, or not what its name says; the index is not
            an index, names a file that is absent or outside the folder, or a tensor that its file does not hold.
    """
    candidates: tuple[tuple[str, WeightFormat], ...] = ((safetensors, "safetensors"), (torch_bin, "pytorch .bin"))
    for name, format_ in candidates:
        single, index = folder / name, folder / f"{name}.index.json"
        if single.exists() or single.is_symlink():
            return describe_files(format_, (single,))
        if index.exists():
            weight_map = _read_index(index)
            files = tuple(folder / shard for shard in dict.fromkeys(weight_map.values()))
            absent = [file.name for file in files if not file.is_file()]
            if absent:
                raise BadInputError(
                    f"names weight files that are missing: {short_list(absent)}",
                    where=str(index),
                    mend="Copy these files into the folder, or download them",
                )
            return describe_files(format_, files, {tensor: folder / shard for tensor, shard in weight_map.items()})
    return None


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        BadInputError: not readable, not UTF-8, not JSON, or not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(_LFS_POINTER.decode()):
            raise pointer_error(path)
        value = json.loads(text)
    except OSError as error:
        raise unreadable_error(path, error) from error
    except (ValueError, RecursionError) as error:  # not UTF-8 and numbers of a million digits are ValueErrors too
        raise BadInputError(f"is not JSON: {printable(str(error), limit=200)}", where=str(path)) from error
    if not isinstance(value, dict):
        raise BadInputError(f"should hold a JSON object, not {type(value).__name__}", where=str(path))
    return value


def pointer_error(file: Path) -> BadInputError:
    """Return the refusal of a file that stands in a clone for one that git-lfs has not fetched."""
    return BadInputError(
        "is a pointer of Git LFS, not the file itself", where=str(file), mend=f"Fetch it: git -C {file.parent} lfs pull"
    )


def unreadable_error(path: Path, error: OSError) -> BadInputError:
    """Return the operating system's refusal to open something of a checkpoint, as bad input."""
    return BadInputError(
        f"cannot be read: {printable(error.strerror or str(error), limit=200)}",
        where=str(path),
        mend="Check that it exists and that you may read it",
    )


def short_list(names: Sequence[str]) -> str:
    """Return the first few names, and how many there are, for a message."""
    first = ", ".join(printable(name, limit=120) for name in names[:_SHOWN])
    return first if len(names) <= _SHOWN else f"{first}, … ({len(names)} in all)"


def describe_files(
    format_: WeightFormat, files: tuple[Path, ...], expected_in: Mapping[str, Path] | None = None
) -> WeightFiles:
    """Read what weight files hold but not the weights.

    Args:
        format_: the format of all.
        files: the files, in order.
        expected_in: tensor -> its file, as an index says.

    Raises:
        BadInputError: as open_weight_files.
    """
    expected_in = expected_in or {}
    tensors: dict[str, TensorInfo] = {}
    file_of: dict[str, Path] = {}
    size_bytes = 0
    for file in files:
        if not file.is_file():  # a pipe or a device would block or never end
            raise BadInputError("is not a regular file", where=str(file))
        size_bytes += _size_of(file)
        for name, info in _list_safetensors(file) if format_ == "safetensors" else _list_bin(file):
            if not name.isprintable():
                raise BadInputError(f"holds a tensor with an unusable name: {printable(name)}", where=str(file))
            if name not in tensors or expected_in.get(name) == file:
                tensors[name], file_of[name] = info, file
    return WeightFiles(
        format_, tensors, file_of, size_bytes, tuple(name for name in expected_in if name not in tensors)
    )


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInputError(
            'should map tensors to files under "weight_map", and does not',
            where=str(path),
            mend="Give the index that was saved with the weights; or remove it: weight files are read without one",
        )
    for shard in weight_map.values():
        if not isinstance(shard, str) or not is_inside(shard):
            raise BadInputError(
                f"names a weight file outside its folder, or no file at all: {printable(str(shard), limit=200)}",
                where=str(path),
                mend="Weight files lie in the checkpoint's own folder. Don't use this checkpoint if you don't trust it",
            )
    return weight_map


def _size_of(file: Path) -> int:
    try:
        with file.open("rb") as opened:  # the mapping libraries hide why they could not
            is_pointer = opened.read(len(_LFS_POINTER)) == _LFS_POINTER
            size_bytes = opened.seek(0, 2)
    except OSError as error:
        raise unreadable_error(file, error) from error
    if is_pointer:
        raise pointer_error(file)
    if size_bytes == 0:
        raise BadInputError("is empty", where=str(file), mend="Copy or download the file again")
    return size_bytes


def _corrupt_error(file: Path, error: Exception) -> BadInputError:
    return BadInputError(
        f"is truncated or corrupt: {printable(str(error), limit=200)}",
        where=str(file),
        mend="Copy or download the file again",
    )


def _list_safetensors(file: Path) -> Iterator[tuple[str, TensorInfo]]:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                code, shape = part.get_dtype(), tuple(part.get_shape())
                if code not in _DTYPES:
                    raise BadInputError(
                        f"{printable(name)} is stored as {printable(code)}, which Quail does not read",
                        where=str(file),
                        mend="Give a checkpoint in full precision, or in a quantized format that Quail reads",
                    )
                yield name, TensorInfo(shape, getattr(torch, _DTYPES[code]))
    except OSError as error:
        raise unreadable_error(file, error) from error
    except SafetensorError as error:
        raise _corrupt_error(file, error) from error


def _read_safetensors(file: Path, name: str) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
            return tensor
    except OSError as error:
        raise unreadable_error(file, error) from error
    except SafetensorError as error:
        raise _corrupt_error(file, error) from error


def _list_bin(file: Path) -> Iterator[tuple[str, TensorInfo]]:
    for name, tensor in _load_bin(file).items():
        yield name, TensorInfo(tuple(tensor.shape), tensor.dtype)


def _read_bin(file: Path, name: str) -> torch.Tensor:
    try:
        return _load_bin(file)[name].contiguous()
    except KeyError as error:
        raise BadInputError(f"{printable(name)} is gone from it", where=str(file)) from error


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    """Return the mapped tensors of a file of torch.save: their pages are read when they are touched."""
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise unreadable_error(file, error) from error
    except pickle.UnpicklingError as error:
        raise BadInputError(
            "holds more than tensors: loading it could run code, so it was not loaded",
            where=str(file),
            mend="Save the state dict alone, as safetensors: model.save_pretrained(folder)",
        ) from error
    except Exception as error:  # a reader of hostile zip files and pickles may raise anything
        if "mmap" in str(error):
            raise BadInputError(
                "is not a file of torch.save, or is in the format of torch before 1.6, which cannot be mapped",
                where=str(file),
                mend="Convert it to safetensors: model.save_pretrained(folder)",
            ) from error
        raise _corrupt_error(file, error) from error
    if not isinstance(loaded, dict):
        raise BadInputError(f"should hold a dict of tensors, not {type(loaded).__name__}", where=str(file))
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise BadInputError(
                f"should hold plain tensors only; {printable(str(name), limit=120)} is not one",
                where=str(file),
                mend="Save the model's state dict alone, best as safetensors: model.save_pretrained(folder)",
            )
    return loaded


def _is_plain(value: object) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        # A view may claim more elements than the file stores; making it contiguous would fill the memory.
        and math.prod(value.shape) * value.element_size() <= value.untyped_storage().nbytes()
    )
