"""The quantization step of a layer, and the paper's margin made of it.

Mishra and Mehreen, arXiv 2601.15538: gamma is half the quantization step. The step is a distance of weights and the
hinge's a distance of logits, so nothing says that half a step is a margin the deployed model notices: docs/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from quail_audit.schemes.interface import Scheme


def quantization_step(weight: torch.Tensor, scheme: Scheme) -> float:
    """The mean over the weights of the width of the bucket that each lies in, in units of the weights.

    On an even grid that is the step itself; nf4 and fp4 have buckets of unlike widths. The outer buckets end at plus
    and minus the block's scale, as in the audit's update / bucket width.
    """
    grid = scheme.grid
    edges = np.concatenate(([-1.0], grid.bounds.astype(np.float64), [1.0]))
    width_of_code = np.zeros(256)
    width_of_code[grid.codes] = np.diff(edges)
    quantized = scheme.quantize(weight)
    widths = torch.from_numpy(width_of_code).to(quantized.codes.device)[quantized.codes.reshape(-1).long()]
    scales = quantized.absmax.double().repeat_interleave(grid.block_size)[: widths.numel()]
    return float((widths * scales).mean())


def half_step(steps: Mapping[str, float], weights: Mapping[str, int]) -> float:
    """Half the mean quantization step over all weights of some layers: layer -> step, layer -> how many weights."""
    return sum(step * weights[layer] for layer, step in steps.items()) / sum(weights.values()) / 2
