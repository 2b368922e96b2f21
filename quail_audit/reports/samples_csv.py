"""Write every sample of every arm as CSV, one row each: its score, its texts and the way it was asked.

Rows are written as the run's events are read, so memory does not grow with the run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from quail_audit.reports.layers_csv import text_cell
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.events.lines import Event

COLUMNS = ("arm", "metric", "sample", "score", "prompt", "truth", "answer", "way")


def render(events: Iterable[Event]) -> Iterator[str]:
    """Yield a heading line, then a line for each sample."""
    yield _line(COLUMNS)
    for event in events:
        if isinstance(event, SampleScored):
            texts = (text_cell(text) for text in (event.prompt, event.truth, event.answer, event.way))
            yield _line((text_cell(event.arm), text_cell(event.metric), event.sample, event.score, *texts))


def _line(cells: Iterable[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()
