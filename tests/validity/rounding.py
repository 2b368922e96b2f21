"""Round a model's weights without Quail: by bitsandbytes, by gguf, or by the format's plain formula."""

from __future__ import annotations

import re

import numpy as np
import torch
from transformers import PreTrainedModel

from tests.validity.models import rounded_parameters


def round_model(model: PreTrainedModel, scheme: str) -> None:
    """Round every linear layer but the head, in place, as the format's own tool does."""
    with torch.no_grad():
        for weight, is_transposed in rounded_parameters(model).values():
            matrix = (weight.T if is_transposed else weight).contiguous()
            rounded = rounded_matrix(matrix, scheme)
            weight.copy_(rounded.T if is_transposed else rounded)


def rounded_matrix(matrix: torch.Tensor, scheme: str) -> torch.Tensor:
    """Return a float32 matrix [rows, columns] as the format deploys it.

    Args:
        matrix: the weights.
        scheme: nf4 or fp4 (bitsandbytes), gguf-q4_0 (gguf), rtn-int{bits}-g{group} (torchao's formula).
    """
    if scheme in ("nf4", "fp4"):
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        codes, state = quantize_4bit(matrix, blocksize=64, quant_type=scheme)
        values: torch.Tensor = dequantize_4bit(codes, state).view_as(matrix)
        return values
    if scheme == "gguf-q4_0":
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize, quantize

        kind = GGMLQuantizationType.Q4_0
        return torch.from_numpy(np.array(dequantize(quantize(matrix.numpy(), kind), kind))).view_as(matrix)
    found = re.fullmatch(r"rtn-int(\d)-g(\d+)", scheme)
    if found is None:
        raise ValueError(f"no tool is known that makes {scheme}")
    bits, group = int(found[1]), int(found[2])
    most = 1 << (bits - 1)
    blocks = matrix.view(-1, group)
    step = blocks.abs().amax(dim=1, keepdim=True) / ((2 * most - 1) / 2)
    codes = (blocks * (1 / step)).round().clamp(-most, most - 1)
    return (codes * step).view_as(matrix)
