"""Formats against each other, on reports made by hand, and reports of older versions."""

import json

import pytest

from quail_audit.schema.events.audit import VerdictReached
from quail_audit.schema.figures import Reason, Score, Verdict
from quail_audit.schema.report import Failure, Report, SchemeReport
from quail_audit.verdict.standings import holds_at, riskiness, scheme_standings, standing_of, worst
from tests.support.judged_figures import COMES_BACK, HOLDS, NOT_FORGOTTEN, REPORTED
from tests.support.made_runs import events as made_events
from tests.support.small_run import SUMMARY, UNTOUCHED, events, layer, report_of

PASS = Verdict(outcome="pass", reasons=(Reason(code="holds", message="it stays forgotten"),))
FAILURE = Failure(kind="environment", message="no backend", where="", mend="install it")


def score(mean: float) -> Score:
    return Score(mean=mean, low=mean, high=mean, samples=4)


def measured(**changes: object) -> SchemeReport:
    values: dict[str, object] = {"summary": SUMMARY, "layers": (layer(), UNTOUCHED), "metrics": {}, "knowledge": {}}
    return SchemeReport.model_validate(values | changes)


def test_the_metric_that_comes_back_most_stands_for_its_format() -> None:
    known = {
        "verbmem_forget": HOLDS,
        "knowmem_forget": COMES_BACK,
        "privleak": REPORTED,
    }
    found = standing_of("nf4", measured(knowledge=known, verdict=PASS))
    assert (found.metric, found.knowledge) == ("knowmem_forget", COMES_BACK)
    assert (found.layers_at_risk, found.layers) == (1, 2)


def test_what_was_not_forgotten_is_worse_than_what_came_back() -> None:
    found = standing_of("nf4", measured(knowledge={"a": COMES_BACK, "b": NOT_FORGOTTEN}))
    assert found.knowledge == NOT_FORGOTTEN


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"verbmem_retain": (80.0, 60.0)}, 75.0),
        ({"verbmem_retain": (80.0, 60.0), "knowmem_retain": (50.0, 25.0)}, 50.0),
        ({"verbmem_retain": (80.0, 60.0), "knowmem_retain": (4.9, 0.0)}, 75.0),  # the original hardly knew it
        ({"verbmem_forget": (80.0, 8.0), "nll_retain": (0.1, 9.0)}, None),
        ({}, None),
    ],
)
def test_utility_is_the_least_share_of_the_original_that_is_kept(
    metrics: dict[str, tuple[float, float]], expected: float | None
) -> None:
    arms = {
        metric: {"original/full": score(original), "unlearned/nf4": score(deployed), "unlearned/full": score(1.0)}
        for metric, (original, deployed) in metrics.items()
    }
    assert standing_of("nf4", measured(metrics=arms)).utility_percent == expected


def test_a_format_that_was_not_measured_is_neither_a_pass_nor_the_worst() -> None:
    found = [
        standing_of("a", measured(verdict=PASS)),
        standing_of("b", measured(failure=FAILURE)),
        standing_of("c", measured(verdict=Verdict(outcome="fail", reasons=()))),
        standing_of("d", measured()),
    ]
    assert [each.standing for each in found] == ["pass", "not measured", "fail", "unknown"]
    assert holds_at(found) == ("a",)
    assert [each.scheme for each in sorted(found, key=riskiness)] == ["c", "b", "a", "d"]


def report_on(**schemes: SchemeReport) -> Report:
    return report_of(*events()).model_copy(update={"schemes": schemes})


def test_what_does_not_decide_makes_no_scheme_the_worst() -> None:
    reported = REPORTED
    found = report_on(
        nf4=measured(knowledge={"verbmem_forget": HOLDS, "privleak": reported}),
        fp4=measured(knowledge={"verbmem_forget": COMES_BACK, "privleak": HOLDS}),
    )
    assert worst(found) == "fp4"


def test_of_equals_the_scheme_with_most_layers_at_risk_is_the_worst() -> None:
    riskier = SUMMARY.model_copy(update={"layers_at_risk": SUMMARY.layers_at_risk + 1})
    assert worst(report_on(nf4=measured(), fp4=measured(summary=riskier))) == "fp4"
    assert worst(report_on(nf4=measured(), fp4=measured(summary=riskier, failure=FAILURE))) == "nf4"
    assert worst(report_on(nf4=measured(failure=FAILURE))) is None


def older(report: Report) -> Report:
    """The report as the first version of Quail wrote it: without verdicts of schemes, or reasons that name one."""
    document = json.loads(report.model_dump_json())
    for scheme in document["schemes"].values():
        del scheme["verdict"], scheme["failure"]
    for reason in document["verdict"]["reasons"]:
        del reason["scheme"]
    return Report.model_validate_json(json.dumps(document))


def test_an_older_report_of_one_scheme_says_its_verdict_and_of_several_that_it_is_not_known() -> None:
    one = older(report_of(*events()))
    assert [each.standing for each in scheme_standings(one)] == ["fail"]
    several = [
        event.model_copy(update={"schemes": {}}) if isinstance(event, VerdictReached) else event
        for event in made_events(blocks=1, schemes=("nf4", "fp4"), samples=2)
    ]
    assert [each.standing for each in scheme_standings(older(report_of(*several)))] == ["unknown", "unknown"]
