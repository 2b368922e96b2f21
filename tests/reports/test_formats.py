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
from quail_audit.reports import junit, layers_csv, markdown, metrics_csv, samples_csv
from quail_audit.reports.formats import FORMATS as WRITERS
from quail_audit.runs.folder import read_report
from quail_audit.schema.events.audit import KnowledgeMeasured
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.figures import Estimate, Kept, KnowledgeOutcome, RuleOutcome
from quail_audit.schema.policy import FORMAT, MEMBERSHIP, UTILITY
from quail_audit.schema.report import Report
from tests.support import made_runs
from tests.support.judged_figures import knowledge
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
    assert text.startswith("## Quail: ✗ FAIL · 4 of 4 texts are back at nf4, the worst of 3 formats \\(VerbMem\\)\n")
    assert "**Forgetting holds at: int8**" in text
    rows = [line for line in text.splitlines() if line.startswith("| `nf4`")]
    assert re.search(r"\| ✗ FAIL \| 4 of 4 \| 97 % \[91, 103\] \| \d+ % \| 13 of 14 \|", rows[0])
    assert "| VerbMem | 4 of 4 | 97 % \\[91, 103\\] | 0 % \\[0, 5\\], 0 of 4 | 97 % | 99 % | comes back |" in text
    assert "`fp4`: the backend is not installed. pip install it" in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 1 + 3 * 2 + 2 * 2, "formats; scores and layers of each; what is known, membership of two"
    for table in tables:
        assert len({row.count("|") - row.count("\\|") for row in table.splitlines()}) == 1, table
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
    [("holds", None), ("comes back", "failure"), ("not forgotten", "failure"), ("swapped", "failure"),
     ("undecided", "skipped"), ("uninformative", "skipped"), ("broken format", "skipped"), ("no floor", "skipped")],
)  # fmt: skip
def test_junit_says_every_outcome(outcome: KnowledgeOutcome, tag: str | None) -> None:
    found = knowledge(outcome, 12.0, 3.0, 30.0, back=4, items=32)
    run = [e.model_copy(update={"knowledge": found}) if isinstance(e, KnowledgeMeasured) else e for e in events()]
    (case,) = parsed(report_of(*run)).iter("testcase")
    assert [child.tag for child in case] == ([tag] if tag else [])
    if tag:
        assert case[0].get("message") == f"{outcome}: 4 of 32 back, 12 % [3, 30] known"


@pytest.mark.parametrize(
    ("rule", "standing", "high", "tag"),
    [(UTILITY, "passed", 99.0, None), (UTILITY, "failed", 70.0, "failure"),
     (UTILITY, "not judged", 90.0, "skipped"), (FORMAT, "passed", None, None),
     (FORMAT, "not judged", None, "skipped"), (MEMBERSHIP, "not judged", 99.0, "skipped"),
     (MEMBERSHIP, "not judged", 9.0, None), (MEMBERSHIP, "failed", 99.0, "failure"),
     (MEMBERSHIP, "waived", 99.0, "skipped")],
)  # fmt: skip
def test_junit_has_a_case_for_utility_the_format_and_membership(
    rule: str, standing: str, high: float | None, tag: str | None
) -> None:
    found = {"rule": rule, "scheme": "nf4", "metric": "knowmem_retain", "figure": rule, "standing": standing}
    found |= {
        "high": high,
        "at_most": 10.0,
        "message": "why",
        "decides": (rule, standing) != (MEMBERSHIP, "not judged"),
    }
    report = report_of(*events()).model_copy(update={"rules": (RuleOutcome.model_validate(found),)})
    _, case = parsed(report).iter("testcase")
    assert case.get("classname") == "quail.nf4"
    assert str(case.get("name")).startswith("KnowMem, retain: ")
    assert [(child.tag, child.get("message")) for child in case] == ([(tag, "why")] if tag else [])


def test_junit_tells_first_what_is_back() -> None:
    (suite,) = parsed(report_of(*events()))
    assert suite[0].tag == "properties"
    assert {each.get("name"): each.get("value") for each in suite[0]} == {
        "verdict": "fail",
        "headline": "1 of 1 texts are back at nf4 (VerbMem)",
    }


def test_junit_of_weights_alone_judges_the_layers() -> None:
    def of(*layers: object) -> ElementTree.Element:
        report = report_of(*events())
        scheme = report.schemes["nf4"].model_copy(update={"layers": layers, "knowledge": {}})
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


def test_the_csv_of_samples_says_which_way_brought_an_answer_out() -> None:
    made = [e.model_copy(update={"way": "longer prompt"}) if e.type == "sample_scored" else e for e in events()]
    rows = list(csv.DictReader(io.StringIO("".join(samples_csv.render(made)))))
    assert {row["way"] for row in rows} == {"longer prompt"}
    asked_as_given = list(csv.DictReader(io.StringIO("".join(samples_csv.render(events())))))
    assert {row["way"] for row in asked_as_given} == {""}


def test_the_csv_of_metrics_has_every_figure_in_full_and_those_that_decide_first() -> None:
    kept = Kept(utility=Estimate(percent=91.25, low=80.5, high=99.5, items=48, standing="above"), format_percent=97.5)
    report = mixed(2)
    scheme = report.schemes["nf4"].model_copy(update={"utility": {"verbmem_retain": kept}})
    report = report.model_copy(update={"schemes": {**report.schemes, "nf4": scheme}})
    rows = list(csv.DictReader(io.StringIO(metrics_csv.render(report))))
    metrics = ["verbmem_forget", "knowmem_forget", "verbmem_retain", "privleak"]
    assert [(row["scheme"], row["metric"]) for row in rows] == [("nf4", metric) for metric in metrics]
    first, retain = rows[0], rows[2]
    assert {name: value for name, value in first.items() if value} == {
        "scheme": "nf4",
        "verdict": "fail",
        "metric": "verbmem_forget",
        "outcome": "comes back",
        "floor": "20.0",
        "back": "4",
        "back_items": "4",
        "back_low": "96.0",
        "back_high": "100.0",
        "back_standing": "above",
        "known": "97.0",
        "known_items": "4",
        "known_low": "91.0",
        "known_high": "103.0",
        "known_standing": "above",
        "residual": "0.0",
        "residual_items": "4",
        "residual_low": "0.0",
        "residual_high": "5.0",
        "residual_standing": "within",
        "still_there": "0",
        "still_there_items": "4",
        "still_there_low": "0.0",
        "still_there_high": "4.0",
        "still_there_standing": "within",
        "came_back": "97.0",
        "format_leaves": "99.0",
        "floor_arm": "retrain/full",
    }
    assert (retain["utility"], retain["utility_items"], retain["format_leaves"]) == ("91.25", "48", "97.5")


def test_no_cell_is_a_formula() -> None:
    rows = list(csv.reader(io.StringIO(layers_csv.render(hostile()))))
    assert any(cell.startswith("'=cmd") for row in rows for cell in row)
    samples = list(csv.reader(io.StringIO("".join(samples_csv.render(events(answer=HOSTILE))))))
    assert len(samples) == 1 + 5
    assert [row[0] for row in samples[1:]] == list(dict.fromkeys(e.arm for e in events() if e.type == "arm_started"))
    assert samples[0][-1] == "way"
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
    for name in ("json", "jsonl", "markdown", "html", "junit", "sarif", "csv", "csv-metrics", "csv-samples"):
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
    for name in ("markdown", "junit", "sarif", "csv", "csv-metrics"):
        assert "".join(WRITERS[name](read_report(alone), None)) == "".join(WRITERS[name](read_report(run), run))
    assert "came back most" not in "".join(WRITERS["html"](read_report(alone), None))
    with pytest.raises(UsageError, match="Name the folder of the run"):
        WRITERS["csv-samples"](read_report(alone), None)
    refused = quail("report", alone, "--format", "jsonl")
    assert refused.returncode == 2
    assert "Name the folder of the run" in refused.stderr
    jsonschema.validate(json.loads(alone.read_text()), json.loads(quail("schema").stdout))
