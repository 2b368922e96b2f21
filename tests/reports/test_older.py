"""Reports and runs of every earlier Quail, in every format: their figures as they stand there, and nothing more."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from quail_audit.reports import findings, wording
from quail_audit.reports.formats import FORMATS
from quail_audit.reports.text.audit import show
from quail_audit.runs.folder import read_report
from quail_audit.schema.report import Report
from quail_audit.verdict.comparison import was_measured_by_recovery
from tests.support.places import GOLDEN
from tests.support.small_run import events, report_of

REPORTS = sorted((GOLDEN / "reports").glob("*.json"))
RUNS = sorted(path for path in (GOLDEN / "runs").iterdir() if path.is_dir())


def as_text(report: Report) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=120, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize("path", [*REPORTS, *RUNS], ids=lambda path: f"{path.parent.name} {path.stem}")
def test_every_format_can_be_written(path: Path) -> None:
    report = read_report(path)
    folder = path if path.is_dir() else None
    assert was_measured_by_recovery(report)
    text = as_text(report)
    assert report.verdict is not None
    assert wording.OUTCOME_MARKS[report.verdict.outcome] in text
    for name, write in FORMATS.items():
        if folder is not None or name != "csv-samples":
            assert "".join(write(report, folder))
    html, markdown = "".join(FORMATS["html"](report, folder)), "".join(FORMATS["markdown"](report, folder))
    for written in (text, html, markdown):
        assert "what it called recovery" in " ".join(written.split())
        assert "are back" not in written, "no items were counted"
        assert findings.NOT_TOLD_NOTE not in written, "it could not be told apart then"


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_recoveries_are_what_is_known(path: Path) -> None:
    document = json.loads(path.read_text())
    rows = {
        (row["scheme"], row["metric"]): row
        for row in csv.DictReader(io.StringIO("".join(FORMATS["csv-metrics"](read_report(path), None))))
    }
    recoveries = {
        (scheme, metric): found
        for scheme, each in document["schemes"].items()
        for metric, found in each["recovery"].items()
    }
    assert rows.keys() == recoveries.keys()
    for key, found in recoveries.items():
        for new, old in (("known", "percent"), ("known_low", "low"), ("known_high", "high"), ("floor", "floor")):
            assert rows[key][new] == ("" if found[old] is None else str(found[old]))
        assert (rows[key]["back"], rows[key]["residual"]) == ("", "")


def test_a_report_of_today_says_nothing_of_recovery() -> None:
    report = report_of(*events())
    assert not was_measured_by_recovery(report)
    assert "recovery" not in as_text(report)
