"""The share of weights that is measured stands under the verdict of every report to read, unless it is all."""

import io

import pytest
from rich.console import Console

from quail_audit.reports import html, markdown
from quail_audit.reports.text.audit import show
from quail_audit.reports.wording import measured_share_line
from quail_audit.schema.figures import NAMES_KEPT, OtherTensors
from quail_audit.schema.report import Report
from tests.support.small_run import SUMMARY, events, report_of

MIXERS = tuple(f"model.layers.{block}.mix.q" for block in range(NAMES_KEPT))


def report_with(names: tuple[str, ...], weights: int) -> Report:
    others = OtherTensors(
        count=30,
        weights=weights + 100,
        identical=30,
        changed=(),
        weights_changed=0,
        matrices=names,
        matrix_weights=weights,
    )
    return report_of(*events()).model_copy(update={"other_tensors": others})


def as_text(report: Report) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=200, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("count", "weights", "share", "more"),
    [
        (1, SUMMARY.weights, "50 %", ""),
        (3, 1, "99 %", ""),
        (5, 10**9, "less than 1 %", ", … (5)"),
        (NAMES_KEPT, 200, "39 %", ", … (20 or more)"),
    ],
)
def test_the_line_has_the_share_and_the_first_names(count: int, weights: int, share: str, more: str) -> None:
    named = ", ".join(MIXERS[: min(count, 3)])
    said = f"measured: {share} of the weights of the blocks' matrices; not measured: {named}{more}"
    assert measured_share_line(report_with(MIXERS[:count], weights)) == said


def test_nothing_is_said_if_all_is_measured_or_an_older_quail_did_not_know() -> None:
    plain = report_of(*events())
    whole = report_with((), 0)
    assert measured_share_line(plain) == measured_share_line(whole) == ""
    for write in (as_text, markdown.render, lambda report: "".join(html.render(report, []))):
        assert write(whole) == write(plain)


def test_reports_lead_with_it() -> None:
    report = report_with(("model.layers.0.<b>[red]x[/red]</b>.q",), 2 * SUMMARY.weights)
    lines = as_text(report).splitlines()
    assert lines[1].strip().startswith("✗ FAIL")
    assert lines[2].strip() == measured_share_line(report)
    assert lines[3].strip() == "it comes back"
    assert lines[2].strip().startswith("measured: 33 %")
    assert markdown.render(report).splitlines()[2] == markdown.plain(measured_share_line(report))
    page = "".join(html.render(report, []))
    assert f'(VerbMem)</p>\n<p class="share">{html.text(measured_share_line(report))}</p>' in page


def test_a_run_without_a_verdict_says_it_too() -> None:
    report = report_with(MIXERS[:1], 1).model_copy(update={"verdict": None})
    assert measured_share_line(report) in as_text(report)
