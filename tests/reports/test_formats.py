"""The formats for machines and comments, read back by independent readers, with hostile text in every place."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from quail_audit.core.errors import UsageError
from quail_audit.reports import junit, layers_csv, markdown, samples_csv
from quail_audit.reports.formats import FORMATS as WRITERS
from quail_audit.runs.folder import read_report
from quail_audit.schema.events.audit import RecoveryMeasured
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.older import Recovery
from quail_audit.schema.report import Report
from tests.support import made_runs
from tests.support.made_runs import FORMATS, write_run
from tests.support.small_run import UNTOUCHED, events, layer, report_of

HOSTILE = (
    "=cmd|'/c calc'!A1 @octocat <script>alert(1)</script> `x` ``y`` | **b** [l](http://e.vil)\n# h\x1b[2J\ufffe\ud800"
)


def hostile() -> Report:
    """Every text that anybody else may have written is hostile."""
    report = report_of(*events())
    bad = layer(HOSTILE)
    scheme = report.schemes["nf4"].model_copy(update={"layers": (bad,)})
    asked = report.request.model_copy(update={"original": HOSTILE, "unlearned": HOSTILE})
    return report.model_copy(update={"request": asked, "schemes": {"nf4": scheme}, "notes": (HOSTILE,)})


def mixed(number: int, blocks: int = 2) -> Report:
    return report_of(*made_runs.events(blocks=blocks, schemes=FORMATS[:number], samples=4, outcome="mixed"))


def parsed(report: Report) -> ElementTree.Element:
    return ElementTree.fromstring(junit.render(report).encode())  # noqa: S314 - written above


def test_markdown_tells_verdict_formats_and_figures() -> None:
    text = markdown.render(mixed(3))
    assert text.startswith("## Quail: ✗ FAIL\n")
    assert "**Safe to ship: int8**" in text
    rows = [line for line in text.splitlines() if line.startswith("| `nf4`")]
    assert "| ✗ FAIL | 97 % [91, 103] | 13 of 14 |" in rows[0]
    assert "`fp4`: the backend is not installed. pip install it" in text
    tables = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    assert all(row.count("|") - row.count("\\|") >= 6 for row in tables)
    assert "quail audit models/llama-news-7b" in text


def test_markdown_of_many_large_formats_still_fits_a_comment() -> None:
    text = markdown.render(mixed(14, blocks=80))
    assert len(text) < 65_536
    assert all(f"`{scheme}`" in text for scheme in FORMATS)
    assert "Worst of 560 layers at nf4" in text, "the worst format comes first"


def test_hostile_text_neither_formats_nor_mentions_in_markdown() -> None:
    text = markdown.render(hostile())
    assert "\x1b" not in text
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text.replace("\\`", ""))
    assert "<script>" not in outside_code.replace("\\<", "")
    assert "@octocat" not in outside_code
    assert "](http" not in outside_code
    assert not re.search(r"^# h", text, re.MULTILINE)


@pytest.mark.parametrize("text", ["", "plain", "a`b", "``", "`", "a|b", "tick at the end`"])
def test_a_code_span_is_closed_where_it_was_meant_to_be(text: str) -> None:
    span = markdown.code(text)
    if not text:
        assert span == ""
        return
    fence = re.match(r"`+", span)
    assert fence is not None
    inner = span[len(fence.group()) : -len(fence.group())]
    assert fence.group() not in re.findall(r"`+", inner)
    assert inner.strip(" ").replace("\\|", "|") == text


def test_junit_has_a_case_for_each_check() -> None:
    root = parsed(mixed(3))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"nf4", "fp4", "int8"}
    cases = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases == {
        ("quail.nf4", "VerbMem, forget: stays forgotten"): ["failure"],
        ("quail.nf4", "KnowMem, forget: stays forgotten"): ["failure"],
        ("quail.fp4", "can be measured"): ["error"],
        ("quail.int8", "VerbMem, forget: stays forgotten"): [],
        ("quail.int8", "KnowMem, forget: stays forgotten"): [],
    }
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("5", "2", "1", "0")


@pytest.mark.parametrize(
    ("outcome", "tag"),
    [("held", None), ("recovered", "failure"), ("not forgotten", "failure"), ("undecided", "skipped"),
     ("uninformative", "skipped")],
)  # fmt: skip
def test_junit_says_every_outcome(outcome: str, tag: str | None) -> None:
    found = Recovery.model_validate({"outcome": outcome})
    run = [e.model_copy(update={"recovery": found}) if isinstance(e, RecoveryMeasured) else e for e in events()]
    (case,) = parsed(report_of(*run)).iter("testcase")
    assert [child.tag for child in case] == ([tag] if tag else [])


def test_junit_of_weights_alone_judges_the_layers() -> None:
    def of(*layers: object) -> ElementTree.Element:
        report = report_of(*events())
        scheme = report.schemes["nf4"].model_copy(update={"layers": layers, "recovery": {}})
        (case,) = parsed(report.model_copy(update={"schemes": {"nf4": scheme}})).iter("testcase")
        return case

    failed = of(layer("bad"), UNTOUCHED)
    assert failed[0].get("message") == "1 of 2 layers are at risk"
    assert failed[0].text == "bad: erased"
    assert of(UNTOUCHED)[0].tag == "skipped"
    assert not list(of(layer(state="carried", at_risk=False), UNTOUCHED))


def test_junit_of_a_run_that_stopped_is_an_error() -> None:
    started = next(events())
    failed = RunFailed(finished="", kind="bad input", message=HOSTILE, where="x", mend="m", exit_code=3)
    root = parsed(report_of(started, failed))
    assert root.get("errors") == "1"


def test_hostile_text_leaves_the_xml_well_formed() -> None:
    assert parsed(hostile()).get("tests") == "1"


def test_the_csv_of_layers_has_every_figure_in_full() -> None:
    report = mixed(2)
    rows = list(csv.DictReader(io.StringIO(layers_csv.render(report))))
    assert len(rows) == 2 * 14
    for scheme in ("nf4", "fp4"):
        of_scheme = [row for row in rows if row["scheme"] == scheme]
        for row, measured in zip(of_scheme, report.schemes[scheme].layers, strict=True):
            assert row["layer" if "layer" in row else "name"] == measured.name
            assert float(row["overlap"]) == measured.overlap
            assert row["survival"] == ("" if measured.survival is None else repr(measured.survival))
            assert row["at_risk"] == str(measured.at_risk)


def test_no_cell_is_a_formula() -> None:
    rows = list(csv.reader(io.StringIO(layers_csv.render(hostile()))))
    assert any(cell.startswith("'=cmd") for row in rows for cell in row)
    samples = list(csv.reader(io.StringIO("".join(samples_csv.render(events(answer=HOSTILE))))))
    assert len(samples) == 1 + 5
    assert [row[0] for row in samples[1:]] == list(dict.fromkeys(e.arm for e in events() if e.type == "arm_started"))
    assert not [cell for row in [*rows, *samples] for cell in row if cell.startswith(("=", "+", "@"))]
    assert all("\n" not in cell and "\x1b" not in cell for row in samples for cell in row)


def quail(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quail_audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_quail_report_writes_every_format_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    text = quail("report", run)
    assert text.returncode == 0, text.stderr
    assert "✗ FAIL" in text.stdout
    written = {}
    for name in ("json", "jsonl", "markdown", "html", "junit", "sarif", "csv", "csv-samples"):
        more = ("--model-card", tmp_path / "README.md") if name == "markdown" else ()
        done = quail("report", run, "--format", name, "--output", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        written[name] = (tmp_path / name).read_text()
    assert "quail_verdict" in (tmp_path / "README.md").read_text()
    assert Report.model_validate_json(written["json"]).run_id == "20260101-120000-ab12"
    assert written["jsonl"] == (run / "events.jsonl").read_text()
    assert len(list(csv.reader(io.StringIO(written["csv-samples"])))) == 1 + 5 * 6 * 24
    assert all(json.loads(line) for line in written["jsonl"].splitlines())


def test_a_folder_without_a_run_is_bad_input(tmp_path: Path) -> None:
    done = quail("report", tmp_path, "--format", "markdown")
    assert done.returncode == 3
    assert "no run here" in done.stderr


def test_a_report_alone_is_enough_for_all_that_shows_no_samples(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_runs.events(samples=2))
    alone = tmp_path / "report.json"
    alone.write_text(read_report(run).model_dump_json())
    for name in ("markdown", "junit", "sarif", "csv"):
        assert "".join(WRITERS[name](read_report(alone), None)) == "".join(WRITERS[name](read_report(run), run))
    assert "came back most" not in "".join(WRITERS["html"](read_report(alone), None))
    with pytest.raises(UsageError, match="Name the folder of the run"):
        WRITERS["csv-samples"](read_report(alone), None)
    refused = quail("report", alone, "--format", "jsonl")
    assert refused.returncode == 2
    assert "Name the folder of the run" in refused.stderr
    jsonschema.validate(json.loads(alone.read_text()), json.loads(quail("schema").stdout))
