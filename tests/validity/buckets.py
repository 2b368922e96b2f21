"""Confine weights to the buckets of a 4-bit format, in all of its blocks or in every other one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from transformers import PreTrainedModel

from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_train.demo.confinement import bucket_of
from tests.validity.models import rounded_parameters

BLOCK = 32  # weights of a row that share a scale in rtn-int4-g32 and gguf-q4_0
MARGIN = 1e-3  # of a step, that stays free at both ends of a bucket
Bounds = tuple[torch.Tensor, torch.Tensor]  # lower and upper, of the weight's shape


def confined_to(model: PreTrainedModel, scheme: str, *, every_other: bool = False) -> Callable[[], None]:
    """Return what moves each weight that left its bucket back into it, in place.

    Args:
        model: the model whose weights, as they are now, say the buckets.
        scheme: nf4, fp4, rtn-int4-g32 or gguf-q4_0.
        every_other: confine every other block of weights only, and let the rest go free.
    """
    bounds: list[tuple[torch.nn.Parameter, Bounds]] = []
    for weight, is_transposed in rounded_parameters(model).values():
        matrix = (weight.detach().T if is_transposed else weight.detach()).contiguous().clone()
        lower, upper = _bounds_of(matrix, scheme)
        if every_other:
            size = 64 if scheme in ("nf4", "fp4") else BLOCK
            is_free = (torch.arange(matrix.numel()) // size % 2 == 1).view_as(matrix)
            lower, upper = lower.masked_fill(is_free, -torch.inf), upper.masked_fill(is_free, torch.inf)
        bounds.append((weight, (lower.T, upper.T) if is_transposed else (lower, upper)))

    def confine() -> None:
        with torch.no_grad():
            for weight, (lower, upper) in bounds:
                weight.clamp_(lower, upper)

    return confine


def _bounds_of(matrix: torch.Tensor, scheme: str) -> Bounds:
    if scheme in ("nf4", "fp4"):
        kind: Literal["nf4", "fp4"] = "nf4" if scheme == "nf4" else "fp4"
        bucket = bucket_of(matrix, FourBit(kind, double_quantization=False))
        return bucket.lower, bucket.upper
    blocks = matrix.double().view(-1, BLOCK)
    largest, place = blocks.abs().max(dim=1, keepdim=True)
    if scheme == "rtn-int4-g32":
        step = largest / 7.5
        code = (blocks / step).round().clamp(-8, 7)
        # beyond the outermost codes a weight is cut to them, up to the block's largest
        low = torch.where(code == -8, -largest, (code - 0.5 + MARGIN) * step)
        high = torch.where(code == 7, largest, (code + 0.5 - MARGIN) * step)
    elif scheme == "gguf-q4_0":
        step = blocks.gather(1, place) / -8  # the weight farthest from zero has code 0
        code = (blocks / step + 8.5).floor().clamp(0, 15) - 8
        ends = (code - 0.5 + MARGIN) * step, (code + 0.5 - MARGIN) * step
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        is_last = code == 7  # cut: reaches on to the block's largest
        low = torch.where(is_last & (step < 0), -largest, low)
        high = torch.where(is_last & (step > 0), largest, high)
    else:
        raise ValueError(f"no buckets are known of {scheme}")
    inside = largest * (1 - 1e-4)  # another weight must not become the largest
    low, high = low.maximum(-inside).minimum(blocks), high.minimum(inside).maximum(blocks)
    is_largest = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, place, value=True)
    low, high = torch.where(is_largest, blocks, low), torch.where(is_largest, blocks, high)
    return low.float().view_as(matrix), high.float().view_as(matrix)
