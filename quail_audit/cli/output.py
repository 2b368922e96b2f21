"""Write a result where it was asked for, in the format that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from quail_audit.core.errors import (
    UsageError,
)

if TYPE_CHECKING:
    from rich.console import Console

    from quail_audit.schema.report import CureReport, Report, TrainingReport


TEXT_WIDTH = 120  # of a report that goes to a file or a pipe


ComparisonFormat = Literal["text", "markdown", "json"]


OutputFormat = Literal["text", "json", "jsonl", "markdown", "html", "junit", "sarif", "csv", "csv-samples"]


@contextmanager
def open_results(output: Path | None) -> Iterator[TextIO]:
    """Where results go: stdout, or a file that takes its place when it is whole."""
    from quail_audit.core.writing import whole_file

    if output is None:
        yield sys.stdout
    else:
        with whole_file(output) as file:
            yield file


def write_report(
    report: Report | TrainingReport | CureReport,
    stream: TextIO,
    format: OutputFormat,  # noqa: A002
    folder: Path | None,
) -> None:
    from quail_audit.runs.digest import with_digest
    from quail_audit.schema.report import CureReport, Report, TrainingReport

    if isinstance(report, Report) and (folder is not None or format == "json"):
        report = with_digest(report)  # that of a file alone keeps its own, until it is written anew
    if format == "json":
        stream.write(report.model_dump_json(indent=2) + "\n")
    elif format == "text":
        from quail_audit.reports.text import audit as text
        from quail_audit.reports.text import cure as cure_text
        from quail_audit.reports.text import training as training_text

        if isinstance(report, TrainingReport):
            training_text.show(report, new_console(stream))
        elif isinstance(report, CureReport):
            cure_text.show(report, new_console(stream))
        else:
            from quail_audit.runs.attributions import read_brought_back_by_scheme

            text.show(report, new_console(stream), read_brought_back_by_scheme(report, folder))
    elif format != "jsonl":
        from quail_audit.reports.formats import FORMATS

        if not isinstance(report, Report):
            raise UsageError(
                f"only an audit has a report as {format}", where="--format", mend="Give text, json or jsonl"
            )
        stream.writelines(FORMATS[format](report, folder))
    stream.flush()


def new_console(stream: TextIO) -> Console:
    """For results: as wide as the terminal, or TEXT_WIDTH elsewhere."""
    from quail_audit.reports.text.console import PlainTextConsole

    return PlainTextConsole(stream, width=None if stream.isatty() else TEXT_WIDTH)
