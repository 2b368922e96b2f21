"""Confine weights to their rounding buckets, so that rounding erases the update.

Such an update is there in full precision and gone once the scheme has rounded the weights. Egashira et al. (arXiv
2405.18137) do this on purpose; the demo shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from quail_audit.engine.schemes.bitsandbytes import FourBit
    from quail_audit.engine.schemes.interface import Scheme

# Rounding works in float32 on the weight times its block's reciprocal scale, so a bucket's edge is only known to about
# 1e-7 of the scale; the narrowest bucket of nf4 is 0.08 of it.
EDGE_MARGIN = 1e-3  # share of the bucket's width that stays free at both ends


@dataclass(frozen=True, eq=False)
class Bucket:
    """The range in which each weight of a matrix keeps its code and scale.

    Attributes:
        lower, upper: float32 [rows, columns]; equal for the largest weight of a block, which sets the scale.
    """

    lower: torch.Tensor
    upper: torch.Tensor

    def confine(self, weight: torch.Tensor) -> None:
        """Move each weight that left its bucket to the nearest place inside, in place."""
        weight.clamp_(self.lower, self.upper)


def bucket_of(weight: torch.Tensor, scheme: FourBit) -> Bucket:
    """Return the buckets of a float32 matrix [rows, columns]. Every weight lies inside its own, bitwise."""
    grid, quantized = scheme.grid, scheme.quantize(weight)
    place = np.zeros(256, dtype=np.int64)  # code -> its level's number
    place[grid.codes] = np.arange(len(grid.codes))
    edges = torch.from_numpy(grid.edges)
    level = torch.from_numpy(place)[quantized.codes.long()]
    own = weight.double()
    scale = quantized.scales.double().repeat_interleave(grid.block_size)[: own.numel()].view_as(own)

    low, high = edges[level] * scale, edges[level + 1] * scale
    margin = (high - low) * EDGE_MARGIN
    held = own.abs() == scale
    lower = torch.where(held, own, torch.minimum(low + margin, own))
    upper = torch.where(held, own, torch.maximum(high - margin, own))
    return Bucket(lower=lower.float(), upper=upper.float())


def rounds_alike(first: torch.Tensor, second: torch.Tensor, scheme: Scheme) -> bool:
    """Return True if both matrices get the same codes and the same scales."""
    a, b = scheme.quantize(first), scheme.quantize(second)
    return torch.equal(a.codes, b.codes) and torch.equal(a.scales, b.scales)
