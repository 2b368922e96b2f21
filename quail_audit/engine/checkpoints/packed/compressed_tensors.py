"""Read weights as compressed-tensors packs them: llm-compressor's W4A16 and W8A16.

The format is pack-quantized. A module has weight_packed int32 [outputs, inputs * bits / 32], weight_scale [outputs,
groups], weight_shape int64 [2], and, if it is asymmetric, weight_zero_point, packed along the outputs; if inputs are
grouped out of order, weight_g_idx. Signed codes are stored plus half their range, and so are zeros. value = scale *
(code - zero). Source: compressed-tensors' compressors/pack_quantized and quantization/lifecycle/forward.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.packed.bits import unpack_rows, words_for
from quail_audit.engine.checkpoints.packed.gptq import dequantize_groups
from quail_audit.engine.checkpoints.packed.interface import (
    PackedMatrix,
    check_part,
    fitting_size,
    group_name,
    group_of_input,
    modules_with,
    read_group_size,
    refuse,
)
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles
from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch

_BITS = (2, 4, 8)


def find_matrices(config: Mapping[str, Any], files: WeightFiles, where: str) -> dict[str, PackedMatrix]:
    """Return the packed matrices, by parameter. Arguments and errors as in gptq.matrices."""
    format_ = str(config.get("format"))
    if format_ != "pack-quantized":
        raise BadInputError(
            f"is stored by compressed-tensors as {printable(format_, limit=60)}; Quail reads pack-quantized",
            where=where,
            mend="Give a checkpoint with integer weights of 4 or 8 bits and full-precision activations",
        )
    schemes = config.get("config_groups")
    parts = schemes.values() if isinstance(schemes, Mapping) else ()
    weights = [part.get("weights") for part in parts if isinstance(part, Mapping)]
    sizes = [read_group_size(part, "group_size", where) for part in weights if isinstance(part, Mapping)]
    found = {}
    for module in modules_with(files, ".weight_packed"):
        found[f"{module}.weight"] = _matrix(module, files, sizes)
    return found


def _matrix(module: str, files: WeightFiles, sizes: Sequence[int]) -> PackedMatrix:
    outputs, words = check_part(files, f"{module}.weight_packed", (None, None), "int32").shape
    check_part(files, f"{module}.weight_shape", (2,), "int64", "int32")
    rows, inputs = (int(side) for side in files.read(f"{module}.weight_shape"))
    bits = next((width for width in _BITS if words_for(max(inputs, 1), width) == words), None)
    if rows != outputs or bits is None:
        refuse(files, f"{module}.weight_shape", f"says {[rows, inputs]}, for {outputs} rows of {words} words")
    scales = check_part(files, f"{module}.weight_scale", (outputs, None), "float16", "bfloat16", "float32")
    groups = scales.shape[1]
    size = fitting_size(inputs, groups, (*sizes, -1))
    if size is None:
        refuse(files, f"{module}.weight_scale", f"has {groups} groups for {inputs} inputs in groups of {sizes}")
    names = ["weight_packed", "weight_shape", "weight_scale"]
    if f"{module}.weight_zero_point" in files.tensors:
        check_part(files, f"{module}.weight_zero_point", (words_for(outputs, bits), groups), "int32")
        names.append("weight_zero_point")
    if f"{module}.weight_g_idx" in files.tensors:
        check_part(files, f"{module}.weight_g_idx", (inputs,), "int32", "int64")
        names.append("weight_g_idx")
    return PackedMatrix(
        scheme=f"w{bits}a16-{group_name(size)}",
        info=TensorInfo((outputs, inputs), scales.dtype),
        parts=tuple(f"{module}.{name}" for name in names),
        unpack=partial(_unpack, module, files, bits, (outputs, inputs), size, frozenset(names)),
    )


def _unpack(
    module: str, files: WeightFiles, bits: int, shape: tuple[int, int], size: int, names: frozenset[str]
) -> RoundedMatrix:
    outputs, inputs = shape
    codes = unpack_rows(files.read(f"{module}.weight_packed"), bits)[:, :inputs].contiguous()
    scales = files.read(f"{module}.weight_scale")
    groups = scales.shape[1]
    zeros: torch.Tensor | float = float(1 << (bits - 1))  # what was added to the signed codes
    if "weight_zero_point" in names:
        zeros = unpack_rows(files.read(f"{module}.weight_zero_point").T, bits)[:, :outputs].T.contiguous()
    index = group_of_input(inputs, size)
    if "weight_g_idx" in names:
        stored = files.read(f"{module}.weight_g_idx").long()
        # -1 throughout: the groups are in order
        if int(stored.min()) != -1 or int(stored.max()) != -1:
            if int(stored.min()) < 0 or int(stored.max()) >= groups:
                span = f"{int(stored.min())} to {int(stored.max())}"
                refuse(files, f"{module}.weight_g_idx", f"names groups from {span} of {groups}")
            index = stored
    return dequantize_groups(codes, zeros, scales, index)
