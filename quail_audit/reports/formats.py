"""Which formats a report can be written in beyond the terminal's text and JSON. Each is a file of this package."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from quail_audit.core.errors import UsageError
from quail_audit.reports import html, junit, layers_csv, markdown, samples_csv, sarif
from quail_audit.reports.worst_samples import WorstSample, worst_samples
from quail_audit.runs.attributions import brought_back_in
from quail_audit.runs.follow import replay
from quail_audit.schema.report import Report


def _samples(report: Report, folder: Path | None) -> Sequence[WorstSample]:
    if folder is None:
        return ()
    return worst_samples(lambda: replay(folder), html.worst_scheme(report), most=html.SAMPLES_SHOWN)


def _every_sample(_: Report, folder: Path | None) -> Iterable[str]:
    if folder is None:
        raise UsageError(
            "a report alone holds no samples", where="--format csv-samples", mend="Name the folder of the run"
        )
    return samples_csv.lines(replay(folder))


Rendering = Callable[[Report, Path | None], Iterable[str]]

# name -> what writes it, in pieces, from the report and, for samples and attributions, the run's folder; or None
FORMATS: Mapping[str, Rendering] = {
    "markdown": lambda report, folder: (markdown.render(report, brought_back_in(report, folder)),),
    "html": lambda report, folder: html.render(report, _samples(report, folder), brought_back_in(report, folder)),
    "junit": lambda report, _: (junit.render(report),),
    "sarif": lambda report, _: (sarif.render(report),),
    "csv": lambda report, folder: (layers_csv.render(report, brought_back_in(report, folder)),),
    "csv-samples": _every_sample,
}
