"""Read weights as bitsandbytes stores them: nf4 and fp4 blocks, and LLM.int8() rows.

In 4 bits: weight uint8, two codes a byte, the first in the high half; weight.absmax, weight.quant_map, and
weight.quant_state.bitsandbytes__nf4, a JSON text; if the scales are rounded too, weight.nested_absmax and
weight.nested_quant_map. In 8 bits: weight int8 and SCB float32, each row's largest magnitude. Source: bitsandbytes
0.50, functional.py (QuantState.as_dict, dequantize_4bit, int8_vectorwise_dequant).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from quail_audit.engine.checkpoints.packed.interface import PackedMatrix, check_part, refuse
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles
from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch

_STATE = ".quant_state.bitsandbytes__"
_LONGEST_STATE = 1 << 16  # bytes; a real one has some 200
_PER_127 = 7.874015718698502e-3  # 1 / 127, as int8_vectorwise_dequant writes it
_STORAGE = ("uint8", "float16", "bfloat16", "float32")  # bnb_4bit_quant_storage: the same bytes under another dtype
_DEFAULT_BLOCK = 64


@dataclass(frozen=True)
class _QuantState:
    """The content of a 4-bit weight's JSON text, checked.

    Attributes:
        kind: "nf4" or "fp4".
        shape: (outputs, inputs).
        dtype: dtype of the dequantized values.
        block_size: weights that share a scale.
        nested_block_size: scales that share a scale of their own; None if they are stored plain.
        nested_offset: the mean that was subtracted from them first.
    """

    kind: str
    shape: tuple[int, int]
    dtype: str
    block_size: int
    nested_block_size: int | None
    nested_offset: float


def find_matrices(config: Mapping[str, Any], files: WeightFiles, where: str) -> dict[str, PackedMatrix]:
    """Return the packed matrices, by parameter. Arguments and errors as in gptq.matrices."""
    found = {}
    for name in files.tensors:
        weight, is_state, kind = name.partition(_STATE)
        if is_state:
            found[weight] = _four_bit_matrix(weight, name, kind, files)
        elif name.endswith(".SCB"):
            module = name.removesuffix(".SCB")
            found[f"{module}.weight"] = _eight_bit_matrix(module, files)
    return found


def _eight_bit_matrix(module: str, files: WeightFiles) -> PackedMatrix:
    import torch

    weight = f"{module}.weight"
    shape = check_part(files, weight, (None, None), "int8").shape
    check_part(files, f"{module}.SCB", (shape[0],), "float32")
    format_name = f"{module}.weight_format"  # 0: rows in order, the only one that is still written
    if format_name in files.tensors:
        check_part(files, format_name, (), "uint8")
        if int(files.read(format_name)):
            refuse(files, format_name, "says that the rows are stored for a kernel of an older bitsandbytes")
    names = (weight, f"{module}.SCB", *((format_name,) if format_name in files.tensors else ()))
    return PackedMatrix("int8", TensorInfo(shape, torch.float32), names, partial(_unpack_8, module, files))


def _unpack_8(module: str, files: WeightFiles) -> RoundedMatrix:
    import torch

    stored = files.read(f"{module}.weight")
    scales = files.read(f"{module}.SCB").reshape(-1, 1)
    values = stored * scales * _PER_127  # in this order, as bitsandbytes does
    codes = (stored.to(torch.int16) + 127).to(torch.uint8)  # from 0, as the scheme has them; -128 is never stored
    return RoundedMatrix(codes=codes, values=values, widths=(scales * _PER_127).expand(codes.shape))


def _four_bit_matrix(weight: str, state_name: str, kind: str, files: WeightFiles) -> PackedMatrix:
    import torch

    state = _read_state(state_name, kind, files)
    weights = state.shape[0] * state.shape[1]
    info = files.tensors.get(weight)
    if info is None or str(info.dtype).removeprefix("torch.") not in _STORAGE:
        check_part(files, weight, (None, 1), *_STORAGE)
    assert info is not None  # noqa: S101 - part() refused it
    stored_bytes = info.dtype.itemsize
    for side in info.shape:
        stored_bytes *= side
    if stored_bytes != -(-weights // 2):
        refuse(files, weight, f"has {stored_bytes} bytes for {weights} weights of 4 bits")
    blocks = -(-weights // state.block_size)
    names = [weight, f"{weight}.absmax", f"{weight}.quant_map", state_name]
    check_part(files, f"{weight}.quant_map", (16,), "float32")
    if state.nested_block_size is None:
        check_part(files, f"{weight}.absmax", (blocks,), "float32")
    else:
        check_part(files, f"{weight}.absmax", (blocks,), "uint8")
        check_part(files, f"{weight}.nested_absmax", (-(-blocks // state.nested_block_size),), "float32")
        check_part(files, f"{weight}.nested_quant_map", (256,), "float32")
        names += [f"{weight}.nested_absmax", f"{weight}.nested_quant_map"]
    double = "" if state.nested_block_size is None else "-dq"
    block = "" if state.block_size == _DEFAULT_BLOCK else f"-b{state.block_size}"
    return PackedMatrix(
        scheme=f"{kind}{double}{block}",
        info=TensorInfo(state.shape, getattr(torch, state.dtype)),
        parts=tuple(names),
        unpack=partial(_unpack_4, weight, state, files),
    )


def _read_state(name: str, kind: str, files: WeightFiles) -> _QuantState:
    info = check_part(files, name, (None,), "uint8")
    if info.shape[0] > _LONGEST_STATE:
        refuse(files, name, f"should be a short JSON text, and has {info.shape[0]} bytes")
    try:
        values = json.loads(bytes(files.read(name).tolist()).decode("utf-8"))
        rows, columns = values["shape"]
        nested = values.get("nested_blocksize")
        state = _QuantState(
            kind=values["quant_type"],
            shape=(rows, columns),
            dtype=values["dtype"],
            block_size=values["blocksize"],
            nested_block_size=nested,
            nested_offset=float(values.get("nested_offset", 0.0)),
        )
        sizes = [rows, columns, state.block_size, *([] if nested is None else [nested])]
        sensible = (
            state.kind == kind
            and kind in ("nf4", "fp4")
            and state.dtype in ("float16", "bfloat16", "float32")
            and all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 40 for size in sizes)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        sensible = False
    if not sensible:
        refuse(files, name, "does not describe a matrix of nf4 or fp4 blocks")
    return state


def _repeat_by_block(of_blocks: torch.Tensor, block_size: int, count: int) -> torch.Tensor:
    """Repeat each block's value for its weights, `count` in all. A block may claim to be larger than that."""
    return of_blocks.repeat_interleave(min(block_size, count))[:count]


def _unpack_4(weight: str, state: _QuantState, files: WeightFiles) -> RoundedMatrix:
    import torch

    levels = files.read(f"{weight}.quant_map")
    _check_levels(f"{weight}.quant_map", levels, state.kind, files)
    packed = files.read(weight).reshape(-1).view(torch.uint8)
    rows, columns = state.shape
    codes = torch.stack((packed >> 4, packed & 0xF), dim=1).reshape(-1)[: rows * columns]
    scales = files.read(f"{weight}.absmax")
    if state.nested_block_size is not None:
        second = _repeat_by_block(files.read(f"{weight}.nested_absmax"), state.nested_block_size, scales.numel())
        scales = files.read(f"{weight}.nested_quant_map")[scales.int()] * second + state.nested_offset
    scale = _repeat_by_block(scales, state.block_size, codes.numel())
    index = codes.int()
    values = (levels[index] * scale).to(torch.float32)
    return RoundedMatrix(
        codes=codes.reshape(state.shape),
        values=values.to(getattr(torch, state.dtype)).reshape(state.shape),
        widths=(_bucket_widths(levels)[index] * scale).reshape(state.shape),
    )


def _check_levels(name: str, levels: torch.Tensor, kind: str, files: WeightFiles) -> None:
    """Refuse other levels than those built into bitsandbytes' kernels, which would compute something else."""
    from bitsandbytes.functional import get_4bit_type

    built_in: torch.Tensor = get_4bit_type(kind, device="cpu")  # type: ignore[no-untyped-call]
    if not levels.equal(built_in):
        refuse(files, name, f"holds other levels than those of {kind}, which bitsandbytes computes with")


def _bucket_widths(levels: torch.Tensor) -> torch.Tensor:
    """Return each code's bucket width for a scale of 1: between the midpoints on both sides, or the block's edge."""
    import torch

    ascending, order = levels.sort(stable=True)
    middles = (ascending[1:] + ascending[:-1]) / 2
    edges = torch.cat((levels.new_tensor([-1.0]), middles, levels.new_tensor([1.0])))
    widths = torch.empty_like(levels)
    widths[order] = edges.diff()
    return widths
