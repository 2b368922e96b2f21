"""Write a run's report in a format, for the command and for the app's export."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from quail_audit.core.errors import UsageError
from quail_audit.reports import html, junit, layers_csv, markdown, metrics_csv, samples_csv, sarif
from quail_audit.reports.text import audit, cure, training
from quail_audit.reports.text.console import new_console
from quail_audit.reports.worst_samples import WorstSample, worst_samples
from quail_audit.runs.attributions import read_brought_back_by_scheme
from quail_audit.runs.digest import add_digest
from quail_audit.runs.follow import replay
from quail_audit.schema.events.lines import to_line
from quail_audit.schema.report import CureReport, Report, TrainingReport
from quail_audit.verdict.standings import worst

AnyReport = Report | TrainingReport | CureReport


def write_report(report: AnyReport, format: str, stream: TextIO, folder: Path | None) -> None:  # noqa: A002
    """Write a report to a stream.

    Args:
        report: the report of an audit, a training or a cure.
        format: "text", "json", "jsonl" or a key of FORMATS.
        stream: the stream to write to; a terminal decides how wide and colourful text is.
        folder: the run's folder, which holds events and attributions; None if only the report is at hand.

    Raises:
        UsageError: this report cannot be written in this format.
    """
    if isinstance(report, Report) and (folder is not None or format == "json"):
        report = add_digest(report)  # a report without its folder keeps its own digest, until it is written anew
    if format == "text":
        _show(report, stream, folder)
    elif format == "json":
        stream.write(report.model_dump_json(indent=2) + "\n")
    elif format == "jsonl":
        stream.writelines(_event_lines(folder))
    elif isinstance(report, Report):
        stream.writelines(FORMATS[format](report, folder))
    else:
        raise UsageError(f"only an audit has a report as {format}", where="--format", mend="Give text, json or jsonl")
    stream.flush()


def _show(report: AnyReport, stream: TextIO, folder: Path | None) -> None:
    console = new_console(stream)
    if isinstance(report, TrainingReport):
        training.show(report, console)
    elif isinstance(report, CureReport):
        cure.show(report, console)
    else:
        audit.show(report, console, read_brought_back_by_scheme(report, folder))


def _event_lines(folder: Path | None) -> Iterable[str]:
    if folder is None:
        raise UsageError("a report alone holds no events", where="--format jsonl", mend="Name the folder of the run")
    return (to_line(event) + "\n" for event in replay(folder))


def _sample_lines(_: Report, folder: Path | None) -> Iterable[str]:
    if folder is None:
        raise UsageError(
            "a report alone holds no samples", where="--format csv-samples", mend="Name the folder of the run"
        )
    return samples_csv.render(replay(folder))


def _worst_samples(report: Report, folder: Path | None) -> Sequence[WorstSample]:
    shown = worst(report)
    if folder is None or shown is None:
        return ()
    return worst_samples(lambda: replay(folder), shown, most=html.SAMPLES_SHOWN)


Renderer = Callable[[Report, Path | None], Iterable[str]]

# An audit's report, and its run's folder if it is at hand, to the pieces of the file.
FORMATS: Mapping[str, Renderer] = {
    "markdown": lambda report, folder: (markdown.render(report, read_brought_back_by_scheme(report, folder)),),
    "html": lambda report, folder: html.render(
        report, _worst_samples(report, folder), read_brought_back_by_scheme(report, folder)
    ),
    "junit": lambda report, _: (junit.render(report),),
    "sarif": lambda report, _: (sarif.render(report),),
    "csv": lambda report, folder: (layers_csv.render(report, read_brought_back_by_scheme(report, folder)),),
    "csv-metrics": lambda report, _: (metrics_csv.render(report),),
    "csv-samples": _sample_lines,
}
