"""Packers and unpackers of quantized weights in plain Python, one code at a time, by the published layouts.

Written from the formats' descriptions and not from Quail's readers, which are held against them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

Codes = Sequence[Sequence[int]]
AWQ_OUTPUT_OF_PLACE = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ, packing_utils.py: AWQ_ORDER


def pack_stream(codes: Sequence[int], bits: int) -> list[int]:
    """Codes as the bits of one long number, the first lowest, cut into words of 32 bits (signed, as int32 has them)."""
    number = sum(code << (bits * place) for place, code in enumerate(codes))
    words = -(-len(codes) * bits // 32)
    return [_signed(number >> (32 * word) & 0xFFFFFFFF) for word in range(words)]


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _int32(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64).to(torch.int32)


def gptq_parts(
    codes: Codes, zeros: Codes, scales: torch.Tensor, groups: Sequence[int] | None, bits: int, *, version: int
) -> dict[str, torch.Tensor]:
    """A GPTQ module: codes [outputs][inputs], zeros [groups][outputs], scales [groups, outputs], group of each input.

    In version 1 zeros are stored less one; what falls below 0 is the largest code.
    """
    less = 1 if version == 1 else 0
    stored = [[(zero - less) % (1 << bits) for zero in row] for row in zeros]
    by_output = [pack_stream(row, bits) for row in codes]
    parts = {
        "qweight": _int32([list(words) for words in zip(*by_output, strict=True)]),
        "qzeros": _int32([pack_stream(row, bits) for row in stored]),
        "scales": scales,
    }
    if groups is not None:
        parts["g_idx"] = torch.tensor(groups, dtype=torch.int32)
    return parts


def awq_parts(codes: Codes, zeros: Codes, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """An AWQ module of the GEMM kernel: codes [outputs][inputs], zeros [groups][outputs]."""

    def words(row: Sequence[int]) -> list[int]:
        eights = [row[start : start + 8] for start in range(0, len(row), 8)]
        return [
            _signed(sum(eight[output] << (4 * p) for p, output in enumerate(AWQ_OUTPUT_OF_PLACE))) for eight in eights
        ]

    return {
        "qweight": _int32([words(row) for row in zip(*codes, strict=True)]),
        "qzeros": _int32([words(row) for row in zeros]),
        "scales": scales,
    }


def compressed_parts(
    codes: Codes, zeros: Codes | None, scales: torch.Tensor, groups: Sequence[int] | None, bits: int
) -> dict[str, torch.Tensor]:
    """A module of compressed-tensors: codes [outputs][inputs] from 0 up, zeros [outputs][groups], or None."""
    parts = {
        "weight_packed": _int32([pack_stream(row, bits) for row in codes]),
        "weight_scale": scales,
        "weight_shape": torch.tensor([len(codes), len(codes[0])]),
    }
    if zeros is not None:
        by_group = [pack_stream(column, bits) for column in zip(*zeros, strict=True)]
        parts["weight_zero_point"] = _int32([list(words) for words in zip(*by_group, strict=True)])
    if groups is not None:
        parts["weight_g_idx"] = torch.tensor(groups, dtype=torch.int32)
    return parts


def write_module(folder: Path, parts: dict[str, torch.Tensor], config: dict[str, Any], module: str = "m") -> None:
    """A folder with one packed module, of a model that transformers doesn't know."""
    folder.mkdir(exist_ok=True, parents=True)
    save_file({f"{module}.{name}": part.contiguous() for name, part in parts.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))


def dequantized(codes: Codes, zero_of: Any, scale_of: Any) -> list[list[float]]:
    """scale * (code - zero), each in turn, in double precision: zero_of(output, input), scale_of(output, input)."""
    return [[scale_of(o, i) * (code - zero_of(o, i)) for i, code in enumerate(row)] for o, row in enumerate(codes)]


def gguf_block(kind: str, block: bytes) -> tuple[list[int], list[float]]:
    """The codes and values of one block, by the loops of ggml-quants.c's dequantize_row functions."""

    def half(at: int) -> float:
        return float(np.frombuffer(block[at : at + 2], np.float16)[0])

    codes: list[int] = []
    values: list[float] = []
    if kind in ("q4_0", "q4_1", "q5_0", "q5_1"):
        five, offset = kind.startswith("q5"), kind.endswith("_1")
        start = (4 if offset else 2) + (4 if five else 0)
        high = int.from_bytes(block[start - 4 : start], "little") if five else 0
        for place in range(32):
            nibble = block[start + place % 16] >> (4 if place >= 16 else 0) & 0xF
            codes.append(nibble | ((high >> place) & 1) << 4)
        zero = 0 if offset else 16 if five else 8
        values = [half(0) * (code - zero) + (half(2) if offset else 0.0) for code in codes]
    elif kind == "q8_0":
        signed = np.frombuffer(block[2:], np.int8).tolist()
        codes, values = [(code + 127) % 256 for code in signed], [half(0) * code for code in signed]
    elif kind == "q2_k":
        for place in range(256):
            half_, within = divmod(place, 128)
            shift, byte = 2 * (within // 32), 32 * half_ + within % 32
            code = block[16 + byte] >> shift & 3
            scale = block[8 * half_ + 2 * (within // 32) + (within % 32) // 16]
            codes.append(code)
            values.append(half(80) * (scale & 0xF) * code - half(82) * (scale >> 4))
    elif kind == "q3_k":
        low, high = block[96:104], block[104:108]
        scales = [
            ((low[i % 8] >> (4 if i >= 8 else 0)) & 0xF | ((high[i % 4] >> 2 * (i // 4)) & 3) << 4) - 32
            for i in range(16)
        ]
        for place in range(256):
            half_, within = divmod(place, 128)
            code = block[32 + 32 * half_ + within % 32] >> 2 * (within // 32) & 3
            code += 4 * (block[within % 32] >> (4 * half_ + within // 32) & 1)
            codes.append(code)
            values.append(half(108) * scales[place // 16] * (code - 4))
    elif kind in ("q4_k", "q5_k"):
        packed = block[4:16]
        for place in range(256):
            sub = place // 32
            if sub < 4:
                scale, minimum = packed[sub] & 63, packed[sub + 4] & 63
            else:
                scale = packed[sub + 4] & 0xF | (packed[sub - 4] >> 6) << 4
                minimum = packed[sub + 4] >> 4 | (packed[sub] >> 6) << 4
            low_start = 48 if kind == "q5_k" else 16
            code = block[low_start + 32 * (sub // 2) + place % 32] >> 4 * (sub % 2) & 0xF
            if kind == "q5_k":
                code |= (block[16 + place % 32] >> sub & 1) << 4
            codes.append(code)
            values.append(half(0) * scale * code - half(2) * minimum)
    elif kind == "q6_k":
        for place in range(256):
            half_, within = divmod(place, 128)
            quarter, column = divmod(within, 32)
            nibble = block[64 * half_ + 32 * (quarter % 2) + column] >> 4 * (quarter // 2) & 0xF
            code = nibble | (block[128 + 32 * half_ + column] >> 2 * quarter & 3) << 4
            scale = int(np.frombuffer(block[192:208], np.int8)[place // 16])
            codes.append(code)
            values.append(half(208) * scale * (code - 32))
    return codes, values
