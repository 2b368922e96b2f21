"""The quantization step of a layer, and the paper's margin made of it.

Mishra and Mehreen, arXiv 2601.15538: gamma is half the quantization step. The step is a distance of weights and the
hinge's a distance of logits, so nothing says that half a step is a margin the deployed model notices: docs/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from quail_audit.engine.schemes.interface import Scheme


def quantization_step(weight: torch.Tensor, scheme: Scheme) -> float:
    """The mean over the weights of the width of the bucket that each lies in, in units of the weights.

    On an even grid that is the step itself; nf4 and fp4 have buckets of unlike widths.
    """
    return float(scheme.bucket_widths(weight, scheme.quantize(weight)).mean(dtype=torch.float64))


def half_step(steps: Mapping[str, float], weights: Mapping[str, int]) -> float:
    """Half the mean quantization step over all weights of some layers: layer -> step, layer -> how many weights."""
    return sum(step * weights[layer] for layer, step in steps.items()) / sum(weights.values()) / 2
