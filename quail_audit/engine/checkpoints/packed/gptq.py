"""Read weights as AutoGPTQ and GPTQModel pack them (checkpoint formats gptq and gptq_v2).

A module has qweight int32 [inputs * bits / 32, outputs], qzeros int32 [groups, outputs * bits / 32], scales [groups,
outputs] and g_idx int32 [inputs], the group of each input. value = scale * (code - zero). The first format stores every
zero less one, the second as it is. Sources: AutoGPTQ's qlinear_cuda.py, GPTQModel's nn_modules/qlinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.packed.bits import unpack_rows, words_for
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

_FLOATS = ("float16", "bfloat16", "float32")
_BITS = (2, 3, 4, 8)


def find_matrices(config: Mapping[str, Any], files: WeightFiles, where: str) -> dict[str, PackedMatrix]:
    """Return the packed matrices, by parameter.

    Args:
        config: the checkpoint's quantization_config.
        files: the stored tensors.
        where: config.json, for messages.

    Raises:
        BadInputError: a kind of GPTQ that Quail does not read, or parts that don't fit together.
    """
    format_ = config.get("checkpoint_format", "gptq")
    if (
        format_ not in ("gptq", "gptq_v2")
        or config.get("is_marlin_format")
        or config.get("pack_dtype")
        not in (
            None,
            "int32",
        )
    ):
        kind = "marlin" if config.get("is_marlin_format") else str(format_)
        raise BadInputError(
            f"is packed for another kind of kernel ({printable(kind, limit=60)}); Quail reads the formats gptq and "
            "gptq_v2 in words of 32 bits",
            where=where,
            mend="Give the checkpoint in one of these formats: GPTQModel writes them with its default settings",
        )
    bits = read_whole_number(config, "bits", _BITS, 4, where)
    size = read_group_size(config, "group_size", where)
    varied = bool(config.get("dynamic"))  # GPTQModel: other bits and groups for modules that match a pattern
    order = "-desc_act" if config.get("desc_act") else ""
    found = {}
    for module in modules_with(files, ".qweight"):
        found[f"{module}.weight"] = _matrix(module, files, bits, size, varied, order, zeros_less_one=format_ == "gptq")
    return found


def _matrix(
    module: str, files: WeightFiles, bits: int, size: int, varied: bool, order: str, *, zeros_less_one: bool
) -> PackedMatrix:
    scales = check_part(files, f"{module}.scales", (None, None), *_FLOATS)
    groups, outputs = scales.shape
    words, _ = check_part(files, f"{module}.qweight", (None, outputs), "int32").shape
    has_index = f"{module}.g_idx" in files.tensors
    inputs = (
        check_part(files, f"{module}.g_idx", (None,), "int32", "int64").shape[0] if has_index else words * 32 // bits
    )
    if varied:
        bits = next((width for width in _BITS if inputs * width == words * 32), bits)
    if inputs * bits != words * 32:
        refuse(files, f"{module}.qweight", f"has {words} words for {inputs} inputs of {bits} bits")
    check_part(files, f"{module}.qzeros", (groups, words_for(outputs, bits)), "int32")
    found = fitting_size(inputs, groups, (size, *((-(-inputs // groups),) if varied else ())))
    if found is None:
        refuse(files, f"{module}.scales", f"has {groups} groups for {inputs} inputs in groups of {size}")
    names = [f"{module}.{name}" for name in ("qweight", "qzeros", "scales", *(("g_idx",) if has_index else ()))]
    return PackedMatrix(
        scheme=f"gptq-int{bits}-{group_name(found)}{order}",
        info=TensorInfo((outputs, inputs), scales.dtype),
        parts=tuple(names),
        unpack=partial(_unpack, module, files, bits, (outputs, inputs), found, has_index, zeros_less_one),
    )


def _unpack(
    module: str, files: WeightFiles, bits: int, shape: tuple[int, int], size: int, has_index: bool, zeros_less_one: bool
) -> RoundedMatrix:
    outputs, inputs = shape
    codes = unpack_rows(files.read(f"{module}.qweight").T, bits)[:, :inputs].contiguous()
    zeros = unpack_rows(files.read(f"{module}.qzeros"), bits)[:, :outputs]
    if zeros_less_one:
        zeros = (zeros + 1) & ((1 << bits) - 1)  # a zero of 0 was stored as the largest code
    scales = files.read(f"{module}.scales")
    groups = scales.shape[0]
    if has_index:
        index = files.read(f"{module}.g_idx").long()
        if int(index.min()) < 0 or int(index.max()) >= groups:
            refuse(files, f"{module}.g_idx", f"names groups from {int(index.min())} to {int(index.max())} of {groups}")
    else:
        index = group_of_input(inputs, size)
    return dequantize_groups(codes, zeros.T.contiguous(), scales.T.contiguous(), index)


def dequantize_groups(
    codes: torch.Tensor, zeros: torch.Tensor | float, scales: torch.Tensor, group_of: torch.Tensor
) -> RoundedMatrix:
    """Dequantize codes whose scales, and zeros, belong to groups of inputs: value = scale * (code - zero).

    Values are in the dtype of the scales, rounded once, as the kernels do: the product of a half-precision scale and a
    code is exact in float32.

    Args:
        codes: uint8 [outputs, inputs].
        zeros: uint8 [outputs, groups], or one zero for all.
        scales: [outputs, groups].
        group_of: int64 [inputs], the group of each input.
    """
    widths = scales.float()[:, group_of]
    values = codes.float()
    values -= zeros if isinstance(zeros, (int, float)) else zeros.float()[:, group_of]
    values *= widths
    return RoundedMatrix(codes=codes, values=values.to(scales.dtype), widths=widths.abs_())
