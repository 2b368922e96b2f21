"""Compute the quantization step of a layer, and the paper's margin from it.

Mishra and Mehreen, arXiv 2601.15538: gamma is half the quantization step. The step is a distance of weights, the
hinge's a distance of logits, so half a step need not be a margin that the deployed model notices: see docs/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from quail_audit.engine.schemes.interface import Scheme


def quantization_step(weight: torch.Tensor, scheme: Scheme) -> float:
    """Return the mean width of the buckets that the weights lie in, in units of the weights.

    On an even grid this is the step itself; the buckets of nf4 and fp4 differ in width.
    """
    return float(scheme.bucket_widths(weight, scheme.quantize(weight)).mean(dtype=torch.float64))


def half_step(steps: Mapping[str, float], weights: Mapping[str, int]) -> float:
    """Return half the mean quantization step over all weights, from layer -> step and layer -> number of weights."""
    return sum(step * weights[layer] for layer, step in steps.items()) / sum(weights.values()) / 2
