"""What a reader may look at in layers: which figure, in words, as a number, and as a place on the ramp of risk.

Shared by the heat map, the table and the layer screen, so that one figure looks the same everywhere. Draws nothing.
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
BROUGHT_BACK: Mode = "brings back"  # the one figure that is no layer statistic: an attribution has it


@dataclass(frozen=True)
class View:
    """How one figure of a layer is shown.

    Attributes:
        value: the figure; None where the layer has none.
        risk: its place on the ramp, 0 (none) to 1.
        low, high: what the ramp's ends say.
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
        # The paper's line is at 0.999, so the ramp is spent between 0.9 and 1 rather than between 0 and 1.
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
        # One of many layers that brings back a quarter alone is as bad as they come: SmolLM2's worst is at 22 %.
        risk=lambda value: value / 0.25,
        low="0 %",
        high="25 %",
        explained="the share of the fall of the forget loss that comes of rounding this layer alone: quail attribute",
    ),
}


def cell(value: float) -> str:
    """A share or ratio in four characters: .981, 1.00; never a 1 that is not one."""
    if 0.9995 <= value < 1.0:
        return ".999"
    return f"{value:.2f}" if value >= 1.0 or value < 0 else f"{value:.3f}"[1:] if value > 0 else "0"


def column_of(layer: LayerStatistics) -> str:
    """Where a layer stands in its block, its own numbers left out: self_attn.q_proj, or experts.w1 for every expert."""
    parts = layer.name.split(".")
    if layer.block is not None and str(layer.block) in parts:
        parts = parts[parts.index(str(layer.block)) + 1 :]
    return ".".join(part for part in parts if not part.isdecimal()) or layer.role


def column_titles(columns: list[str], width: int) -> list[str]:
    """Short titles: q for self_attn.q_proj; the parent's first letters where two would be alike."""
    roles = [_short(column.rpartition(".")[2]) for column in columns]
    titles = []
    for column, role in zip(columns, roles, strict=True):
        parent = column.rpartition(".")[0].rpartition(".")[2]
        titles.append(role if roles.count(role) == 1 or not parent else f"{parent[:1]}.{role}")
    return [printable(title)[:width] for title in titles]


def _short(role: str) -> str:
    return re.sub(r"_(proj|layer|lin)$", "", role)


def figures(layer: LayerStatistics) -> dict[str, str]:
    """A layer's figures as every table writes them."""
    return {
        "weights": wording.count_text(layer.weights),
        "identical": wording.share_text(layer.identical),
        "overlap": wording.share_text(layer.overlap),
        "survival": wording.ratio_text(layer.survival),
        "noise": wording.ratio_text(layer.noise),
        "update/bucket": wording.ratio_text(layer.update_to_bucket),
    }
