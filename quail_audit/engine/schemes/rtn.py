"""Round to nearest (rtn-int…) as torchao 0.18 does with IntxWeightOnlyConfig, code for code.

The name says the bits, what shares a scale (a group of a row, or the row: an output channel) and whether zero lies in
the middle: rtn-int4-g128, rtn-int8-channel, rtn-int3-g64-asym. torchao computes in the dtype of the weights, and so
does this. If a row does not divide into groups, torchao leaves the layer alone, and so does Quail.
Source: torchao/quantization/quant_primitives.py (choose_qparams_affine, quantize_affine).
"""

from __future__ import annotations

import re

from quail_audit.engine.schemes.affine import AffineScheme, Extremes, Parameters

BITS = (2, 3, 4, 8)
GROUPS = (32, 64, 128)
GRAMMAR = "rtn-int{2,3,4,8}[-g{32,64,128}|-channel][-asym]"
_NAME = re.compile(r"rtn-int(?P<bits>[2348])(?:-g(?P<group>32|64|128)|-channel)?(?P<asym>-asym)?")
_ZERO_POINT_BITS, _SCALE_BITS = 8, 16  # as torchao keeps them: int8, and the weights' dtype, mostly of 16 bits
DEFAULT_GROUP = 128  # if the name gives neither group nor channel


class RoundToNearest(AffineScheme):
    """Round to nearest over groups or rows.

    Args:
        bits: 2, 3, 4 or 8.
        group: weights of a row that share a scale; None: the whole row.
        asymmetric: whether levels reach from the smallest to the largest weight, rather than as far to both sides.
    """

    rounding = "even"
    in_weights_dtype = True

    def __init__(self, bits: int, group: int | None, *, asymmetric: bool) -> None:
        self.block_size, self.asymmetric = group, asymmetric
        self.lowest, self.highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        shared = "channel" if group is None else f"g{group}"
        self.name = f"rtn-int{bits}-{shared}{'-asym' if asymmetric else ''}"
        kept = _SCALE_BITS + (_ZERO_POINT_BITS if asymmetric else 0)
        self.bits_per_weight = bits + (0 if group is None else kept / group)
        sides = "asymmetric" if asymmetric else "symmetric"
        over = "each output channel" if group is None else f"groups of {group}"
        self.title = f"round to nearest, {bits} bits, {sides}, over {over}, as torchao's IntxWeightOnlyConfig"

    def parameters(self, extremes: Extremes) -> Parameters:
        """See AffineScheme. Every operation is in the weights' dtype."""
        import torch

        low, high = extremes.low.clamp(max=0), extremes.high.clamp(min=0)
        steps, smallest = float(self.highest - self.lowest), torch.finfo(low.dtype).smallest_normal
        if self.asymmetric:
            scale = ((high - low) / steps).clamp(min=smallest)
            zero = (self.lowest - (low / scale).round()).clamp(self.lowest, self.highest)
        else:
            scale = (torch.maximum(-low, high) / (steps / 2)).clamp(min=smallest)
            zero = torch.zeros_like(scale)
        nothing = torch.zeros_like(scale, dtype=torch.float32)
        return Parameters(
            inverse=(1.0 / scale).float(), start=nothing, zero=zero.float(), scale=scale.float(), base=nothing
        )


def scheme_of(name: str) -> RoundToNearest | None:
    """Return the scheme of this name; None if it is no name of this family."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    group = None if "-channel" in name else int(found["group"] or DEFAULT_GROUP)
    return RoundToNearest(int(found["bits"]), group, asymmetric=found["asym"] is not None)


def schemes() -> tuple[RoundToNearest, ...]:
    """Return the most common forms, for lists; scheme_of knows every one."""
    common = ("rtn-int4-g128", "rtn-int4-g64", "rtn-int4-g32", "rtn-int4-g128-asym", "rtn-int4-channel")
    rare = ("rtn-int8-channel", "rtn-int8-g128", "rtn-int3-g64", "rtn-int3-g128", "rtn-int2-g32")
    return tuple(found for name in (*common, *rare) if (found := scheme_of(name)) is not None)
