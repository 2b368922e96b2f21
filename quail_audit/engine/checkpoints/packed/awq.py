"""Read weights as AutoAWQ packs them for its GEMM kernel.

A module has qweight int32 [inputs, outputs / 8], qzeros int32 [groups, outputs / 8] and scales [groups, outputs].
value = scale * (code - zero). The eight 4-bit codes of a word belong to the outputs 0, 2, 4, 6, 1, 3, 5, 7 of their
eight, from the low bits up. Source: AutoAWQ's awq/utils/packing_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.packed.bits import unpack_rows
from quail_audit.engine.checkpoints.packed.gptq import dequantize_groups
from quail_audit.engine.checkpoints.packed.interface import (
    PackedMatrix,
    check_part,
    fitting_size,
    group_name,
    group_of_input,
    modules_with,
    read_group_size,
    read_whole_number,
    refuse,
)
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles
from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch

_PLACE_OF_OUTPUT = (0, 4, 1, 5, 2, 6, 3, 7)  # in its word


def find_matrices(config: Mapping[str, Any], files: WeightFiles, where: str) -> dict[str, PackedMatrix]:
    """Return the packed matrices, by parameter. Arguments and errors as in gptq.matrices."""
    version = str(config.get("version", config.get("checkpoint_format", "gemm"))).lower()
    if version != "gemm":
        raise BadInputError(
            f"is packed for the AWQ kernel {printable(version, limit=60)}; Quail reads gemm",
            where=where,
            mend="Give the checkpoint in the version GEMM, which AutoAWQ writes by default",
        )
    read_whole_number(config, "bits", (4,), 4, where)
    size = read_group_size(config, "group_size", where)
    found = {}
    for module in modules_with(files, ".qweight"):
        scales = check_part(files, f"{module}.scales", (None, None), "float16", "bfloat16", "float32")
        groups, outputs = scales.shape
        inputs, words = check_part(files, f"{module}.qweight", (None, None), "int32").shape
        if words * 8 != outputs or fitting_size(inputs, groups, (size,)) is None:
            held = f"{inputs} inputs in groups of {size} and {words} words of outputs"
            refuse(files, f"{module}.qweight", f"has {held}, for scales {[groups, outputs]}")
        check_part(files, f"{module}.qzeros", (groups, words), "int32")
        found[f"{module}.weight"] = PackedMatrix(
            scheme=f"awq-int4-{group_name(size)}",
            info=TensorInfo((outputs, inputs), scales.dtype),
            parts=tuple(f"{module}.{name}" for name in ("qweight", "qzeros", "scales")),
            unpack=partial(_unpack, module, files, size),
        )
    return found


def _unpack(module: str, files: WeightFiles, size: int) -> RoundedMatrix:
    codes = _unpack_words(files.read(f"{module}.qweight")).T.contiguous()
    zeros = _unpack_words(files.read(f"{module}.qzeros")).T.contiguous()
    scales = files.read(f"{module}.scales").T.contiguous()
    return dequantize_groups(codes, zeros, scales, group_of_input(codes.shape[1], size))


def _unpack_words(words: torch.Tensor) -> torch.Tensor:
    """Unpack int32 [rows, words] to uint8 [rows, outputs]."""
    rows = words.shape[0]
    return unpack_rows(words, 4).reshape(rows, -1, 8)[:, :, list(_PLACE_OF_OUTPUT)].reshape(rows, -1)
