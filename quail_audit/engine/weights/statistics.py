"""Turn sums into a layer's statistics, and layers into a scheme's summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from quail_audit.engine.weights import kernel_parts
from quail_audit.engine.weights.sums import Counts, PairSums, Sums
from quail_audit.schema.figures import RATIO_EDGES, LayerDetail, LayerStatistics, SchemeSummary
from quail_audit.schema.policy import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence


def median_of_counts(counts: Counts, zeros: int = 0) -> float | None:
    """Return the lower median of the counted magnitudes and of so many zeros; None if there are neither.

    It is within 0.2 % of the exact one: a bin's middle stands for what is in it.
    """
    total = int(counts.sum()) + zeros
    if total == 0:
        return None
    rank = (total - 1) // 2
    if rank < zeros:
        return 0.0
    found = int(np.searchsorted(np.cumsum(counts), rank - zeros, side="right"))
    found = min(found, kernel_parts.LAST_BIN)
    if found == 0:
        return 0.0  # the first bin: zero itself and magnitudes under 5e-41
    middle = np.array([(found << kernel_parts.BIN_SHIFT) + (1 << (kernel_parts.BIN_SHIFT - 1))], np.int32)
    return float(middle.view(np.float32)[0])


def layer_statistics(
    sums: Sums, *, name: str, block: int | None, role: str, limits: Limits = DEFAULT_LIMITS
) -> LayerStatistics:
    """Return the statistics of a layer (DESIGN section 2) from its sums; see LayerStatistics for their units.

    Args:
        sums: sums over the layer's pair of matrices.
        name, block, role: the layer.
        limits: the policy's limits between one state and another.
    """
    figures: dict[str, Any] = {
        "identical": sums.identical / sums.weights,
        "overlap": sums.overlap,
        "survival": sums.survival,
        "noise": sums.noise,
        "update_median": median_of_counts(sums.updates, zeros=sums.identical),
        "update_median_changed": median_of_counts(sums.updates),
        "update_max": sums.update_max,
        "update_to_bucket": median_of_counts(sums.ratios) if isinstance(sums, PairSums) else None,
        "state": sums.state_under(limits),
        "on_grid": sums.on_grid / sums.weights if isinstance(sums, PairSums) else None,
    }
    if not sums.is_finite:
        figures = dict.fromkeys(figures)
    return LayerStatistics(
        name=name,
        block=block,
        role=role,
        weights=sums.weights,
        **figures,
        at_risk=figures["state"] in ("erased", "drowned"),
        nonfinite_original=sums.nonfinite_original,
        nonfinite_unlearned=sums.nonfinite_unlearned,
    )


def layer_detail(sums: PairSums) -> LayerDetail | None:
    """Return what a layer's sums say beyond its statistics; None if a weight is no finite number."""
    if not sums.is_finite:
        return None
    # Every edge is the smallest magnitude of its bin (a test holds them to that), so no bin is split: a ratio equal to
    # an edge is counted in the bin that starts there.
    starts = np.array((0.0, *RATIO_EDGES), np.float32).view(np.int32) >> kernel_parts.BIN_SHIFT
    return LayerDetail(
        ratio_counts=tuple(np.add.reduceat(sums.ratios, starts).tolist()),
        transitions=tuple(sums.transitions.reshape(-1).tolist()) if sums.transitions.size > 1 else (),
    )


def summarize(total: Sums, layers: Sequence[LayerStatistics]) -> SchemeSummary:
    """Return the figures of all layers of a scheme taken together.

    Args:
        total: the sum of the layers' sums.
        layers: the layers' statistics.
    """
    states = [layer.state for layer in layers]
    is_known = total.is_finite and total.weights > 0
    return SchemeSummary(
        weights=total.weights,
        identical=total.identical / total.weights if is_known else None,
        overlap=total.overlap if is_known else None,
        survival=total.survival if is_known else None,
        noise=total.noise if is_known else None,
        layers_at_risk=sum(layer.at_risk for layer in layers),
        layers_untouched=states.count("untouched"),
        layers_carried=states.count("carried"),
        layers_drowned=states.count("drowned"),
        layers_erased=states.count("erased"),
    )
