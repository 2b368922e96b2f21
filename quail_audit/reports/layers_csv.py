"""The layers of every scheme as CSV, a row each; from report.json alone. Numbers stand in full, null as nothing."""

from __future__ import annotations

import csv
import io

from quail_audit.events import LayerStatistics
from quail_audit.report import Report
from quail_audit.untrusted import printable

_FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet would calculate what begins with one


def render(report: Report) -> str:
    """With a heading line; columns are those of a layer in report.json."""
    stream = io.StringIO()
    columns = list(LayerStatistics.model_fields)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["scheme", *columns])
    for scheme, measured in report.schemes.items():
        for layer in measured.layers:
            values = layer.model_dump()
            writer.writerow([text_cell(scheme), *(_cell(values[column]) for column in columns)])
    return stream.getvalue()


def text_cell(text: str) -> str:
    """Text of anybody's as a spreadsheet may read it: on one line, and never as a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


def _cell(value: object) -> object:
    return text_cell(value) if isinstance(value, str) else value
