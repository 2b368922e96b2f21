"""Turn sums into a layer's statistics, and layers into a scheme's summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quail_audit.engine.weights import kernel_parts as block_sums
from quail_audit.engine.weights.sums import Counts, PairSums
from quail_audit.schema.figures import RATIO_EDGES, LayerDetail, LayerStatistics, SchemeSummary, State
from quail_audit.schema.policy import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence


def median_of_counts(counts: Counts, zeros: int = 0) -> float | None:
    """The lower median of the counted magnitudes and of as many zeros; None where there are neither.

    Within 0.2 % of the exact one: a bin's middle stands for what is in it.
    """
    total = int(counts.sum()) + zeros
    if total == 0:
        return None
    rank = (total - 1) // 2
    if rank < zeros:
        return 0.0
    found = int(np.searchsorted(np.cumsum(counts), rank - zeros, side="right"))
    found = min(found, block_sums.LAST_BIN)
    if found == 0:
        return 0.0  # the first bin: zero itself and magnitudes under 5e-41
    middle = np.array([(found << block_sums.BIN_SHIFT) + (1 << (block_sums.BIN_SHIFT - 1))], np.int32)
    return float(middle.view(np.float32)[0])


def layer_statistics(
    sums: PairSums, *, name: str, block: int | None, role: str, limits: Limits = DEFAULT_LIMITS
) -> LayerStatistics:
    """What a layer's sums say, in the words of DESIGN section 2."""
    if not sums.finite:
        return LayerStatistics(
            name=name,
            block=block,
            role=role,
            weights=sums.weights,
            identical=None,
            overlap=None,
            survival=None,
            noise=None,
            update_median=None,
            update_median_changed=None,
            update_max=None,
            update_to_bucket=None,
            state=None,
            at_risk=False,
            nonfinite_original=sums.nonfinite_original,
            nonfinite_unlearned=sums.nonfinite_unlearned,
        )
    state = _state(sums, limits)
    return LayerStatistics(
        name=name,
        block=block,
        role=role,
        weights=sums.weights,
        identical=sums.identical / sums.weights,
        overlap=sums.same_code / sums.weights,
        survival=sums.survival,
        noise=sums.noise,
        update_median=median_of_counts(sums.updates, zeros=sums.identical),
        update_median_changed=median_of_counts(sums.updates),
        update_max=sums.update_max,
        update_to_bucket=median_of_counts(sums.ratios),
        state=state,
        at_risk=state in ("erased", "drowned"),
    )


def layer_detail(sums: PairSums) -> LayerDetail | None:
    """What a layer's sums say beyond its statistics; None where there is a weight that is no finite number."""
    if not sums.finite:
        return None
    # Every edge is the smallest magnitude of its bin (a test holds them to that), so no bin is split: a ratio equal to
    # an edge is counted in the bin that starts there.
    starts = np.array((0.0, *RATIO_EDGES), np.float32).view(np.int32) >> block_sums.BIN_SHIFT
    return LayerDetail(
        ratio_counts=tuple(np.add.reduceat(sums.ratios, starts).tolist()),
        transitions=tuple(sums.transitions.reshape(-1).tolist()) if sums.transitions.size > 1 else (),
    )


def _state(sums: PairSums, limits: Limits) -> State:
    survival = sums.survival
    return "untouched" if survival is None else limits.state_of(survival, sums.same_code / sums.weights)


def summarize(total: PairSums, layers: Sequence[LayerStatistics]) -> SchemeSummary:
    """All layers of a scheme taken together.

    Args:
        total: the sum of the layers' sums.
        layers: their statistics.
    """
    states = [layer.state for layer in layers]
    finite = total.finite and total.weights > 0
    return SchemeSummary(
        weights=total.weights,
        identical=total.identical / total.weights if finite else None,
        overlap=total.same_code / total.weights if finite else None,
        survival=total.survival if finite else None,
        noise=total.noise if finite else None,
        layers_at_risk=sum(layer.at_risk for layer in layers),
        layers_untouched=states.count("untouched"),
        layers_carried=states.count("carried"),
        layers_drowned=states.count("drowned"),
        layers_erased=states.count("erased"),
    )
