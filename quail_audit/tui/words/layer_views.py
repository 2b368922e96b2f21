"""Show one figure of a layer: in words, as a number, and as a place on the ramp of risk.

Shared by the heat map, the table and the layer screen, so that one figure looks the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import LayerStatistics

Mode = Literal["risk", "overlap", "survival", "update/bucket", "brings back"]
MODES: tuple[Mode, ...] = ("risk", "overlap", "survival", "update/bucket", "brings back")
BROUGHT_BACK: Mode = "brings back"  # not a layer statistic: it comes from an attribution


@dataclass(frozen=True)
class View:
    """The way one figure of a layer is shown.

    Attributes:
        value: the figure; None if the layer has none.
        risk: its place on the ramp, 0 (none) to 1.
        low, high: the words at the ramp's ends.
        explained: one line on how to read it.
    """

    value: Callable[[LayerStatistics], float | None]
    risk: Callable[[float], float]
    low: str
    high: str
    explained: str


VIEWS: Mapping[Mode, View] = {
    "risk": View(
        value=lambda layer: None,
        risk=lambda value: 0.0,
        low="",
        high="",
        explained="the layer's state: what rounding makes of its update",
    ),
    "overlap": View(
        value=lambda layer: layer.overlap,
        # The paper's limit is 0.999, so the ramp goes from 0.9 to 1 rather than from 0 to 1.
        risk=lambda value: max(0.0, (value - 0.9) / 0.1),
        low="0.90",
        high="1",
        explained="the share of weights with the same code in both checkpoints; near 1 they are deployed as one model",
    ),
    "survival": View(
        value=lambda layer: layer.survival,
        risk=lambda value: 1.0 - value,
        low="1",
        high="0",
        explained="how much of the update the rounded model carries; 1 is all of it, 0 is none",
    ),
    "update/bucket": View(
        value=lambda layer: layer.update_to_bucket,
        risk=lambda value: 1.0 - value,
        low="1",
        high="0",
        explained="the median update in bucket widths; below one half it crosses a bound only by luck",
    ),
    "brings back": View(
        value=lambda layer: None,
        # A single layer that brings back a quarter is as bad as it gets: SmolLM2's worst is at 22 %.
        risk=lambda value: value / 0.25,
        low="0 %",
        high="25 %",
        explained="the share of the drop in forget loss that rounding this layer alone undoes: quail attribute",
    ),
}


def cell(value: float) -> str:
    """Write a share or ratio in four characters: .981, 1.00; never rounded up to 1."""
    if 0.9995 <= value < 1.0:
        return ".999"
    return f"{value:.2f}" if value >= 1.0 or value < 0 else f"{value:.3f}"[1:] if value > 0 else "0"


def column_of(layer: LayerStatistics) -> str:
    """Return a layer's place in its block without numbers: self_attn.q_proj, or experts.w1 for every expert."""
    parts = layer.name.split(".")
    if layer.block is not None and str(layer.block) in parts:
        parts = parts[parts.index(str(layer.block)) + 1 :]
    return ".".join(part for part in parts if not part.isdecimal()) or layer.role


def column_titles(columns: list[str], width: int) -> list[str]:
    """Return short titles: q for self_attn.q_proj; with the parent's first letter if two would be alike."""
    roles = [_short(column.rpartition(".")[2]) for column in columns]
    titles = []
    for column, role in zip(columns, roles, strict=True):
        parent = column.rpartition(".")[0].rpartition(".")[2]
        titles.append(role if roles.count(role) == 1 or not parent else f"{parent[:1]}.{role}")
    return [printable(title)[:width] for title in titles]


def _short(role: str) -> str:
    return re.sub(r"_(proj|layer|lin)$", "", role)


def figures(layer: LayerStatistics) -> dict[str, str]:
    """Write a layer's figures as every table does."""
    return {
        "weights": wording.count_text(layer.weights),
        "identical": wording.share_text(layer.identical),
        "overlap": wording.share_text(layer.overlap),
        "survival": wording.ratio_text(layer.survival),
        "noise": wording.ratio_text(layer.noise),
        "update/bucket": wording.ratio_text(layer.update_to_bucket),
    }
