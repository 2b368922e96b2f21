"""Which formats a report can be written in beyond the terminal's text and JSON. Each is a file of this package."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from quail_audit.report import Report
from quail_audit.reports import junit, layers_csv, markdown, samples_csv
from quail_audit.runs import replay

Rendering = Callable[[Report, Path], Iterable[str]]

# name -> what writes it, in pieces, from the report and, where it shows samples, the run's folder
FORMATS: Mapping[str, Rendering] = {
    "markdown": lambda report, _: (markdown.render(report),),
    "junit": lambda report, _: (junit.render(report),),
    "csv": lambda report, _: (layers_csv.render(report),),
    "csv-samples": lambda _, folder: samples_csv.lines(replay(folder)),
}
