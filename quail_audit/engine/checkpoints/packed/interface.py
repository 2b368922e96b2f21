"""Define a packed matrix: a weight that reads as any other, and that also gives its codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles, Weights
from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch  # 1.6 s to import

MAKE_AGAIN = "Make or download the quantized checkpoint again"


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A weight matrix that is stored as codes and scales.

    Attributes:
        scheme: how it was rounded, as `--scheme` would name it: "nf4".
        info: shape [outputs, inputs] and dtype of the values that it stands for.
        parts: the stored tensors that it is made of.
        unpack: reads these and returns codes, values and widths, [outputs, inputs] each. Raises BadInputError if they
            make no sense. Allocates at most a few times the size of the stored parts.
        transposed: whether the model's parameter is [inputs, outputs], as GPT-2's Conv1D has it.
    """

    scheme: str
    info: TensorInfo
    parts: tuple[str, ...]
    unpack: Callable[[], RoundedMatrix] = field(repr=False)
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class PackedFiles:
    """The weights of a folder of which some are packed. Implements Weights.

    Attributes:
        format: the format in words: "GPTQ, safetensors".
        tensors: name -> shape and dtype, of the weights that the packed ones stand for and of the others as stored.
        size_bytes: bytes of all the files together.
        matrices: the packed weights, by the name of the parameter.
        files: the stored tensors, where the other weights are read.
    """

    format: str
    tensors: Mapping[str, TensorInfo]
    size_bytes: int
    matrices: Mapping[str, PackedMatrix]
    files: Weights

    @property
    def file_of(self) -> Mapping[str, Path]:
        """Name, as it is stored -> the file that holds it."""
        return self.files.file_of

    def read(self, name: str) -> torch.Tensor:
        """Return one weight, dequantized if it is packed, as the deployed model has it. See WeightFiles.read."""
        matrix = self.matrices.get(name)
        if matrix is None:
            return self.files.read(name)
        values = matrix.unpack().values
        return values.T.contiguous() if matrix.transposed else values


def packed_files(
    format_: str, files: Weights, matrices: Mapping[str, PackedMatrix], transposed: frozenset[str] = frozenset()
) -> PackedFiles:
    """Replace packed tensors by the weights that they stand for.

    Args:
        format_: the format in words.
        files: the stored tensors.
        matrices: parameter -> its packed matrix.
        transposed: parameters that the model has as [inputs, outputs].
    """
    packed = {part for matrix in matrices.values() for part in matrix.parts}
    tensors = {name: info for name, info in files.tensors.items() if name not in packed}
    turned = {name: replace(matrix, transposed=name in transposed) for name, matrix in matrices.items()}
    for name, matrix in turned.items():
        shape = matrix.info.shape[::-1] if matrix.transposed else matrix.info.shape
        tensors[name] = TensorInfo(shape, matrix.info.dtype)
    return PackedFiles(format_, tensors, files.size_bytes, turned, files)


def modules_with(files: WeightFiles, suffix: str) -> tuple[str, ...]:
    """Return the modules that have a tensor of this suffix, in the order of the files."""
    return tuple(name.removesuffix(suffix) for name in files.tensors if name.endswith(suffix))


def check_part(files: WeightFiles, name: str, shape: tuple[int | None, ...], *dtypes: str) -> TensorInfo:
    """Check a stored part of a packed matrix, and return its shape and dtype.

    Args:
        files: the stored tensors.
        name: name of the part.
        shape: the shape that it should have; None for a side of any length.
        dtypes: names of torch's dtypes, one of which it should have.

    Raises:
        BadInputError: it is absent, or has another shape or dtype.
    """
    info = files.tensors.get(name)
    if info is None:
        where = next(iter(files.file_of.values())).parent
        raise BadInputError(f"lacks {printable(name)}, a part of a packed weight", where=str(where), mend=MAKE_AGAIN)
    fits = len(info.shape) == len(shape) and all(
        wanted is None or wanted == found for wanted, found in zip(shape, info.shape, strict=True)
    )
    dtype = str(info.dtype).removeprefix("torch.")
    if not fits or dtype not in dtypes or 0 in info.shape:
        wanted_shape = ", ".join("any" if side is None else str(side) for side in shape)
        refuse(files, name, f"should be {' or '.join(dtypes)} [{wanted_shape}], and is {dtype} {list(info.shape)}")
    return info


def refuse(files: WeightFiles, name: str, problem: str) -> NoReturn:
    """Raise BadInputError: a stored tensor makes no sense."""
    raise BadInputError(f"{printable(name)} {problem}", where=str(files.file_of[name]), mend=MAKE_AGAIN)


def read_whole_number(values: Mapping[str, Any], key: str, allowed: tuple[int, ...], default: int, where: str) -> int:
    """Return a number of the quantization_config in config.json.

    Raises:
        BadInputError: it is not an allowed one.
    """
    found = values.get(key, default)
    if isinstance(found, bool) or found not in allowed:
        raise BadInputError(
            f"quantization_config says {key} = {printable(str(found), limit=60)}; Quail reads "
            f"{', '.join(map(str, allowed))}",
            where=where,
        )
    return int(found)


def read_group_size(values: Mapping[str, Any], key: str, where: str) -> int:
    """Return how many inputs share a scale, by the quantization_config; -1: all of a row.

    Raises:
        BadInputError: it is not such a number.
    """
    found = values.get(key)
    found = -1 if found is None else found
    if isinstance(found, bool) or not isinstance(found, int) or not (found == -1 or 0 < found < 1 << 40):
        raise BadInputError(f"quantization_config says {key} = {printable(str(found), limit=60)}", where=where)
    return found


def fitting_size(inputs: int, groups: int, sizes: Sequence[int]) -> int | None:
    """Return the first group size that cuts so many inputs into so many groups, the last perhaps short; else None."""
    return next((size for size in sizes if groups == (1 if size == -1 else -(-inputs // size))), None)


def group_name(size: int) -> str:
    """Return the part of a scheme's name for a group size: "g128", or "channel" for whole rows."""
    return "channel" if size == -1 else f"g{size}"


def group_of_input(inputs: int, size: int) -> torch.Tensor:
    """Return the group of each input if they are grouped in order: int64 [inputs]."""
    import torch

    return torch.arange(inputs) // (inputs if size == -1 else size)
