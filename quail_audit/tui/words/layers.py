"""Put a layer's statistics into words: each figure, and one line on what its value means."""

from __future__ import annotations

import math
from typing import NamedTuple

from quail_audit.reports import wording
from quail_audit.schema.figures import RATIO_EDGES, LayerDetail, LayerStatistics
from quail_audit.schema.policy import Limits

LOUD_NOISE = 2.0
HARDLY_TRAINED = 0.9  # and above: the share of identical weights
HALF, WHOLE = RATIO_EDGES.index(0.5), RATIO_EDGES.index(1.0)


class Reading(NamedTuple):
    """One statistic.

    Attributes:
        name: as in the heads of tables.
        value: with its unit, or a dash if there is none.
        words: what the value means for this layer.
    """

    name: str
    value: str
    words: str


def readings(layer: LayerStatistics, limits: Limits) -> list[Reading]:
    """Return every statistic of a layer, the ones that decide its state first.

    Args:
        layer: its statistics.
        limits: the limits for it.
    """
    return [
        Reading("overlap", wording.share_text(layer.overlap), _overlap(layer.overlap, limits.overlap_at_risk)),
        Reading("survival", wording.ratio_text(layer.survival), _survival(layer.survival, limits.survival_at_risk)),
        Reading("noise", wording.ratio_text(layer.noise), _noise(layer.noise)),
        Reading("update/bucket", wording.ratio_text(layer.update_to_bucket), _update_to_bucket(layer.update_to_bucket)),
        Reading("identical", wording.share_text(layer.identical), _identical(layer.identical)),
        Reading("median update", wording.magnitude_text(layer.update_median_changed), _median(layer)),
        Reading("largest update", wording.magnitude_text(layer.update_max), "of the weight that moved furthest"),
        Reading("weights", wording.count_text(layer.weights), f"{layer.weights:,} in this matrix"),
        *_nonfinite(layer),
    ]


def _overlap(value: float | None, limit: float) -> str:
    if value is None:
        return "not known: a weight is not a finite number"
    if value == 1.0:
        return "every code the same: deployed, it is one model"
    return "the same code in both" + (
        f": at risk, from {limit:g} on" if value >= limit else f"; at risk from {limit:g} on"
    )


def _survival(value: float | None, limit: float) -> str:
    if value is None:
        return "nothing changed that could survive"
    return "of the update is left" + (f": at risk, under {limit:g}" if value < limit else f"; at risk under {limit:g}")


def _noise(value: float | None) -> str:
    if value is None:
        return "nothing changed that noise could cover"
    if value <= 1.0:
        return "× the update: the rounding error is no larger"
    return "× the update: the rounding error drowns it" if value >= LOUD_NOISE else "× the update"


def _update_to_bucket(value: float | None) -> str:
    if value is None:
        return "no weight changed"
    return "bucket widths: " + ("the median crosses only by luck" if value < 0.5 else "the median can cross a bound")


def _identical(value: float | None) -> str:
    if value is None:
        return "not known: a weight is not a finite number"
    if value == 1.0:
        return "bit for bit the same: it was not trained"
    return "bit for bit the same" + (": hardly trained" if value >= HARDLY_TRAINED else "")


def _median(layer: LayerStatistics) -> str:
    if layer.update_median_changed is None:
        return "no weight changed"
    return f"over changed weights; {wording.magnitude_text(layer.update_median)} over all"


def _nonfinite(layer: LayerStatistics) -> list[Reading]:
    counts = {"original": layer.nonfinite_original, "unlearned": layer.nonfinite_unlearned}
    return [
        Reading("not finite", f"{count:,}", f"weights of the {checkpoint} one: it is damaged")
        for checkpoint, count in counts.items()
        if count
    ]


def state_in_words(layer: LayerStatistics) -> str:
    """Return the state and its meaning: "erased: rounding took the update away"."""
    if layer.state is None and wording.layer_state(layer) == wording.NOT_COMPARABLE:
        return "not comparable: the two checkpoints do not store it in one format"
    if layer.state is None:
        return "not finite: a weight is not a number, so no other figure is known"
    return f"{layer.state}: {wording.STATE_MEANINGS[layer.state]}"


def below_half(detail: LayerDetail) -> float | None:
    """Return the share of changed weights that moved less than half their bucket's width; None if none changed."""
    total = sum(detail.ratio_counts)
    return sum(detail.ratio_counts[: HALF + 1]) / total if total else None


def below_half_in_words(detail: LayerDetail) -> str:
    """Say what below_half means."""
    value = below_half(detail)
    if value is None:
        return "No weight changed."
    return sentence_case(f"{percent(value)} of changed weights moved under half a bucket: they cross by luck.")


def bin_in_words(place: int) -> str:
    """Say which updates a bin of the histogram counts, in bucket widths."""
    if place == 0:
        return f"below {fraction(RATIO_EDGES[0])}"
    if place == len(RATIO_EDGES):
        return f"{fraction(RATIO_EDGES[-1])} and above"
    return f"{fraction(RATIO_EDGES[place - 1])} to {fraction(RATIO_EDGES[place])}"


def fraction(value: float) -> str:
    """Write a power of two, or the middle between two: 1/64, 3/8, ½, 6."""
    if value == 0.5:
        return "½"
    if value >= 1.0:
        return f"{value:g}"
    numerator, denominator = value.as_integer_ratio()
    return f"{numerator}/{denominator}"


def kept_codes(detail: LayerDetail) -> float | None:
    """Return the share of changed weights that kept their code; None if none changed."""
    levels = levels_of(detail)
    total = sum(detail.transitions)
    kept = sum(detail.transitions[level * levels + level] for level in range(levels))
    return kept / total if total else None


def levels_of(detail: LayerDetail) -> int:
    """Return the number of levels of the scheme."""
    return math.isqrt(len(detail.transitions))


def percent(share: float) -> str:
    """Write a share in percent; 100 % and 0 % only if it is exactly that."""
    shown = f"{100 * share:.1f}"
    if (shown == "100.0" and share < 1.0) or (shown == "0.0" and share > 0.0):
        return "over 99.9 %" if share > 0.5 else "under 0.1 %"
    return f"{100 * share:.0f} %" if shown in ("100.0", "0.0") else f"{shown} %"


def sentence_case(text: str) -> str:
    """Capitalize the first letter, and leave the rest as it is."""
    return text[:1].upper() + text[1:]
