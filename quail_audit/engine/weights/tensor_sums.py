"""Sum over a pair of matrices in plain torch, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quail_audit.engine.schemes.absmax_blocks import LEVELS
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.interface import Quantized, Scheme
from quail_audit.engine.schemes.rounded import RoundedMatrix
from quail_audit.engine.weights import kernel_parts
from quail_audit.engine.weights.sums import Counts, PairSums, no_counts, no_transitions

if TYPE_CHECKING:
    import torch

MOST_LEVELS_OF_TRANSITIONS = 16  # 256 levels would put 65,536 counts into each layer's event


def sums_by_tensor_operations(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme) -> PairSums:
    """Sum in plain torch operations, on any device, with the scheme's own quantizer.

    It takes several passes and several copies of the matrices: for devices whose memory is fast, and for short ends.

    Args:
        original, unlearned, scheme: as in pair_sums.
    """
    nonfinite_o, nonfinite_u = int((~original.isfinite()).sum()), int((~unlearned.isfinite()).sum())
    if nonfinite_o or nonfinite_u:
        return PairSums(weights=original.numel(), nonfinite_original=nonfinite_o, nonfinite_unlearned=nonfinite_u)
    o, u = (number_codes(scheme.quantize(side), side, scheme) for side in (original, unlearned))
    return sums_of_rounded(original, unlearned, o, u, levels=scheme.levels)


def number_codes(quantized: Quantized, weight: torch.Tensor, scheme: Scheme) -> RoundedMatrix:
    """Return a matrix as it is deployed, with its codes renumbered in the order of the levels."""
    import torch

    codes = quantized.codes
    if isinstance(scheme, FourBit):
        number_of = np.zeros(LEVELS, np.uint8)
        number_of[scheme.grid.codes] = np.arange(LEVELS)
        codes = torch.from_numpy(number_of).to(codes.device)[codes.int()]
    return RoundedMatrix(codes, scheme.dequantize(quantized), scheme.bucket_widths(weight, quantized))


def sums_of_rounded(
    original: torch.Tensor, unlearned: torch.Tensor, rounded_o: RoundedMatrix, rounded_u: RoundedMatrix, *, levels: int
) -> PairSums:
    """Sum over a pair of finite matrices that have been rounded already, by whatever means.

    Args:
        original, unlearned: [rows, columns], before rounding.
        rounded_o, rounded_u: both as they are deployed. Without widths there are no ratios.
        levels: number of codes. Transitions are counted up to MOST_LEVELS_OF_TRANSITIONS.
    """
    import torch

    precise = torch.float32 if original.device.type == "mps" else torch.float64  # mps has no float64
    codes_o, codes_u = rounded_o.codes.reshape(-1), rounded_u.codes.reshape(-1)
    o, u = original.to(precise).reshape(-1), unlearned.to(precise).reshape(-1)
    update = u - o
    rounded = rounded_u.values.to(precise).reshape(-1) - rounded_o.values.to(precise).reshape(-1)
    changed = original.float().view(torch.int32).reshape(-1) != unlearned.float().view(torch.int32).reshape(-1)
    magnitude = update.abs()[changed].float()
    ratios = no_counts()
    if rounded_o.widths is not None:
        ratios = count_by_bin((magnitude / rounded_o.widths.reshape(-1)[changed]).float())
    transitions = no_transitions()
    if levels <= MOST_LEVELS_OF_TRANSITIONS:
        counted = changed | (codes_o != codes_u)
        cells = codes_o[counted].long() * levels + codes_u[counted].long()
        transitions = torch.bincount(cells, minlength=levels * levels).reshape(levels, levels).cpu().numpy()
    return PairSums(
        weights=original.numel(),
        identical=int((~changed).sum()),
        same_code=int((codes_o == codes_u).sum()),
        dot=float(rounded @ update),
        update_squared=float(update @ update),
        rounded_squared=float(rounded @ rounded),
        update_max=float(magnitude.max()) if magnitude.numel() else 0.0,
        updates=count_by_bin(magnitude),
        ratios=ratios,
        transitions=transitions,
    )


def count_by_bin(magnitudes: torch.Tensor) -> Counts:
    """Count non-negative float32 magnitudes by bin."""
    import torch

    bins = (magnitudes.contiguous().view(torch.int32) >> kernel_parts.BIN_SHIFT).cpu().numpy()
    return np.bincount(bins, minlength=kernel_parts.BINS).astype(np.int64)
