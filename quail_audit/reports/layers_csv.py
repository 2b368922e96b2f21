"""Write the layers of every scheme as CSV, one row each, with any attribution.

Numbers have all their digits; null is an empty cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from quail_audit.core.untrusted import printable
from quail_audit.runs.attributions import BroughtBack
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.report import Report

_FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet calculates a cell that begins with one
_BROUGHT_BACK_COLUMNS = ("brings_back", "brings_back_low", "brings_back_high")


def render(report: Report, attributed: Mapping[str, BroughtBack] | None = None) -> str:
    """Return a heading line and a row a layer: its fields in report.json, then what rounding it alone brings back.

    Args:
        report: an audit's report.
        attributed: scheme -> layer -> its share of the drop in forget loss.
    """
    stream = io.StringIO()
    columns = list(LayerStatistics.model_fields)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["scheme", *columns, *_BROUGHT_BACK_COLUMNS])
    for scheme, measured in report.schemes.items():
        for layer in measured.layers:
            values = layer.model_dump()
            unit = (attributed or {}).get(scheme, {}).get(layer.name)
            share = (unit.share, unit.low, unit.high) if unit is not None else (None,) * len(_BROUGHT_BACK_COLUMNS)
            writer.writerow([text_cell(scheme), *(_cell(values[column]) for column in columns), *share])
    return stream.getvalue()


def text_cell(text: str) -> str:
    """Return any text on one line, and so that a spreadsheet does not take it for a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


def _cell(value: object) -> object:
    return text_cell(value) if isinstance(value, str) else value
