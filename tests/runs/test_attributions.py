"""Attributions read back from an audit's folder, and the column they become in its reports."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from quail_audit.reports.formats import FORMATS
from quail_audit.reports.text import audit
from quail_audit.runs.attributions import read_brought_back, read_brought_back_by_scheme, read_units
from quail_audit.runs.folder import read_report
from quail_audit.runs.names import EVENTS, REQUEST
from tests.support.made_runs import events, write_attribution, write_run

UP, DOWN = "model.layers.3.mlp.up_proj", "model.layers.3.mlp.down_proj"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("attributed") / "run", events(schemes=("nf4", "fp4"), samples=2))
    write_attribution(folder, {UP: 0.9}, name="20260101-120000-older")
    write_attribution(folder, {UP: 0.22, DOWN: 0.07})
    return folder


def written(name: str, run: Path) -> str:
    return "".join(FORMATS[name](read_report(run), run))


def test_the_latest_of_a_scheme_is_read(run: Path) -> None:
    found = read_brought_back(run, "nf4")
    assert {layer: unit.share for layer, unit in found.items()} == {UP: 0.22, DOWN: 0.07}
    assert len(read_units(run, "nf4")) == 4, "a block, two layers, and one of them spared"
    assert read_brought_back(run, "fp4") == {}
    assert read_brought_back_by_scheme(read_report(run), run).keys() == {"nf4"}
    assert read_brought_back_by_scheme(read_report(run), None) == {}


def test_one_that_cannot_be_read_leaves_the_one_before(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", events(samples=2))
    write_attribution(run, {UP: 0.22})
    for name, file, content in (("b", EVENTS, "no json\n"), ("c", REQUEST, "{"), ("d", EVENTS, "")):
        folder = write_attribution(run, {UP: 0.5}, name=f"20260102-120000-{name}")
        (folder / file).write_text(content)
    assert read_brought_back(run, "nf4")[UP].share == 0.22


def test_the_csv_has_it_in_full_and_its_columns_always(run: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", run))))
    found = {row["name"]: row for row in rows if row["scheme"] == "nf4"}
    columns = ("brings_back", "brings_back_low", "brings_back_high")
    assert [float(found[UP][column]) for column in columns] == pytest.approx([0.22, 0.17, 0.27])
    assert {row["brings_back"] for row in rows if row["name"] not in (UP, DOWN) or row["scheme"] == "fp4"} == {""}
    bare = write_run(tmp_path / "run", events(samples=2))
    assert set(columns) <= set(csv.DictReader(io.StringIO(written("csv", bare))).fieldnames or ())


@pytest.mark.parametrize(("width", "cell"), [(200, "22 % [17, 27]"), (80, "22 %")])
def test_the_terminal_shows_it_where_there_is_one(run: Path, width: int, cell: str) -> None:
    def shown(folder: Path | None) -> str:
        stream = io.StringIO()
        report = read_report(run)
        audit.show(
            report, Console(file=stream, width=width, highlight=False), read_brought_back_by_scheme(report, folder)
        )
        return stream.getvalue()

    (row,) = (line for line in shown(run).splitlines() if "3.mlp.up_proj" in line and "%" in line)
    assert cell in row
    assert all(len(line) <= width for line in shown(run).splitlines())
    assert shown(run).count("brings back") == 1, "one scheme has an attribution"
    assert "brings back" not in shown(None)


def test_markdown_has_a_column_of_it(run: Path) -> None:
    written_ = written("markdown", run)
    heading = next(line for line in written_.splitlines() if "| brings back |" in line)
    row = next(line for line in written_.splitlines() if UP in line and "22 % [17, 27]" in line)
    sides = written_.splitlines()[written_.splitlines().index(heading) + 1]
    assert heading.count("|") == row.count("|") == sides.count("|") == 7
    assert "brings back" not in "".join(FORMATS["markdown"](read_report(run), None))


class Cells(HTMLParser):
    """The cells of every row of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_page_has_a_column_that_sorts_and_says_what_it_is(run: Path) -> None:
    page = written("html", run)
    parser = Cells()
    parser.feed(page)
    heading = next(row for row in parser.rows if "brings back" in row)
    row = next(row for row in parser.rows if row[:1] == [UP] and "22 % [17, 27]" in row)
    assert row.index("22 % [17, 27]") == heading.index("brings back") == len(heading) - 2
    assert len(row) == len(heading)
    assert re.search(r'data-key="0.22">22 % \[17, 27\]', page)
    assert "rounding this layer\nalone" in page
    assert "brings back" not in "".join(FORMATS["html"](read_report(run), None))
