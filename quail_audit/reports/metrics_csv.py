"""Write what is known and kept by every metric of every scheme as CSV, one row each.

Shares are in percent and have all their digits; null is an empty cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from quail_audit.reports.findings import metrics_in_order
from quail_audit.reports.layers_csv import text_cell
from quail_audit.schema.figures import Estimate, ItemsBack, Kept, Knowledge
from quail_audit.schema.report import Report

COLUMNS = (
    *("scheme", "verdict", "metric", "outcome"),
    *(f"back{part}" for part in ("", "_items", "_low", "_high", "_standing")),
    *(f"known{part}" for part in ("", "_items", "_low", "_high", "_standing")),
    *(f"residual{part}" for part in ("", "_items", "_low", "_high", "_standing")),
    *(f"still_there{part}" for part in ("", "_items", "_low", "_high", "_standing")),
    "came_back",
    *(f"utility{part}" for part in ("", "_items", "_low", "_high", "_standing")),
    *("format_leaves", "floor", "floor_arm", "items_needed"),
)


def render(report: Report) -> str:
    """Return a heading line, and a row for each metric that decides, tells utility or is of membership."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for scheme, measured in report.schemes.items():
        verdict = measured.verdict.outcome if measured.verdict is not None else None
        for metric in metrics_in_order([*measured.knowledge, *measured.utility]):
            known, kept = measured.knowledge.get(metric), measured.utility.get(metric)
            row: dict[str, object] = {"scheme": text_cell(scheme), "verdict": verdict, "metric": text_cell(metric)}
            if known is not None:
                row |= _knowledge_cells(known)
            if kept is not None:
                row |= _kept_cells(kept)
            writer.writerow(row)
    return stream.getvalue()


def _knowledge_cells(found: Knowledge) -> Mapping[str, object]:
    cells: dict[str, object] = {
        "outcome": found.outcome,
        "came_back": found.came_back_percent if found.outcome != "reported only" else None,
        "format_leaves": found.format_percent,
        "floor": found.floor,
        "floor_arm": text_cell(found.floor_arm) if found.floor_arm is not None else None,
        "items_needed": found.items_needed,
    }
    figures = {"back": found.back, "known": found.known, "residual": found.residual, "still_there": found.kept}
    for name, figure in figures.items():
        cells |= _figure_cells(name, figure)
    return cells


def _kept_cells(found: Kept) -> Mapping[str, object]:
    return {**_figure_cells("utility", found.utility), "format_leaves": found.format_percent}


def _figure_cells(name: str, found: Estimate | ItemsBack | None) -> Mapping[str, object]:
    if found is None:
        return {}
    value = found.percent if isinstance(found, Estimate) else found.count
    items = found.items or None  # unknown in older reports
    rest = {"items": items, "low": found.low, "high": found.high, "standing": found.standing}
    return {name: value, **{f"{name}_{part}": each for part, each in rest.items()}}
