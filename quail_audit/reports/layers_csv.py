"""The layers of every scheme as CSV, a row each; from report.json, and an attribution where there is one.

Numbers stand in full, null as nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from quail_audit.core.untrusted import printable
from quail_audit.runs.attributions import BroughtBack
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.report import Report

_FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet would calculate what begins with one


_BROUGHT_BACK = ("brings_back", "brings_back_low", "brings_back_high")


def render(report: Report, attributed: Mapping[str, BroughtBack] | None = None) -> str:
    """With a heading line; columns are those of a layer in report.json, then what rounding it alone brings back.

    Args:
        report: what was measured.
        attributed: scheme -> layer -> its part in the fall of the forget loss, as shares of it.
    """
    stream = io.StringIO()
    columns = list(LayerStatistics.model_fields)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["scheme", *columns, *_BROUGHT_BACK])
    for scheme, measured in report.schemes.items():
        for layer in measured.layers:
            values = layer.model_dump()
            unit = (attributed or {}).get(scheme, {}).get(layer.name)
            part = (unit.share, unit.low, unit.high) if unit is not None else (None,) * len(_BROUGHT_BACK)
            writer.writerow([text_cell(scheme), *(_cell(values[column]) for column in columns), *part])
    return stream.getvalue()


def text_cell(text: str) -> str:
    """Text of anybody's as a spreadsheet may read it: on one line, and never as a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


def _cell(value: object) -> object:
    return text_cell(value) if isinstance(value, str) else value
