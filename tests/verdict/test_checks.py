import pytest

from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import LayerStatistics, Outcome, Recovery
from quail_audit.schema.policy import Policy
from quail_audit.verdict.checks import EXIT_CODE_OF, exit_code
from tests.support.judged_figures import HELD, NOT_FORGOTTEN, REPORTED, UNDECIDED, UNINFORMATIVE, failed_scheme
from tests.support.small_run import RECOVERED, UNTOUCHED, judge, layer

NO_FLOOR = Recovery(outcome="no floor")
NO_ROUNDED_ARM = Recovery(outcome="no rounded arm", floor=20.0, floor_arm="unlearned/full")
CARRIED = layer(state="carried", at_risk=False, overlap=0.9, survival=1.0)


@pytest.mark.parametrize(
    ("recoveries", "outcome", "codes"),
    [
        ({"a": HELD}, "pass", ["held"]),
        ({"a": RECOVERED}, "fail", ["recovered"]),
        ({"a": UNDECIDED}, "inconclusive", ["undecided"]),
        ({"a": UNINFORMATIVE}, "inconclusive", ["uninformative"]),
        ({"a": REPORTED}, "inconclusive", ["uninformative"]),
        ({"a": NOT_FORGOTTEN}, "fail", ["not_forgotten"]),
        ({"a": HELD, "b": RECOVERED}, "fail", ["recovered", "held"]),
        ({"a": HELD, "b": UNDECIDED}, "inconclusive", ["undecided", "held"]),
        ({"a": HELD, "b": UNINFORMATIVE, "c": REPORTED}, "pass", ["held"]),
        ({"a": HELD, "b": NOT_FORGOTTEN}, "fail", ["not_forgotten", "held"]),
        ({"a": NO_FLOOR}, "inconclusive", ["no_floor"]),
        ({"a": NO_ROUNDED_ARM}, "inconclusive", ["no_rounded_arm"]),
        ({"a": HELD, "b": NO_FLOOR}, "inconclusive", ["no_floor", "held"]),
        ({"a": NO_FLOOR, "b": NOT_FORGOTTEN}, "fail", ["not_forgotten", "no_floor"]),
    ],
)
def test_forgetting_decides(recoveries: dict[str, Recovery], outcome: Outcome, codes: list[str]) -> None:
    judged = judge({"nf4": [layer()]}, {"nf4": recoveries}, Policy())
    reached = judged.overall
    assert judged.schemes == {"nf4": reached}
    assert reached.outcome == outcome
    assert [reason.code for reason in reached.reasons] == codes


def test_one_scheme_that_fails_fails_the_release_but_not_the_other_scheme() -> None:
    judged = judge({}, {"nf4": {"verbmem_forget": HELD}, "fp4": {"verbmem_forget": RECOVERED}}, Policy())
    reached = judged.overall
    assert {scheme: verdict.outcome for scheme, verdict in judged.schemes.items()} == {"nf4": "pass", "fp4": "fail"}
    assert [reason.scheme for reason in reached.reasons] == ["fp4", "nf4"]
    assert reached.outcome == "fail"
    assert "fp4" in reached.reasons[0].message
    assert "98 %" in reached.reasons[0].message
    assert "80 to 104 %" in reached.reasons[0].message


def test_not_forgotten_is_said_once_for_all_schemes() -> None:
    recoveries = {scheme: {"verbmem_forget": NOT_FORGOTTEN} for scheme in ("nf4", "fp4")}
    judged = judge({}, recoveries, Policy())
    assert [reason.code for reason in judged.overall.reasons] == ["not_forgotten"]
    assert [verdict.outcome for verdict in judged.schemes.values()] == ["fail", "fail"]


@pytest.mark.parametrize(
    ("layers", "outcome", "code"),
    [
        ([layer(), CARRIED, UNTOUCHED], "fail", "layers_at_risk"),
        ([CARRIED, UNTOUCHED], "pass", "layers_carried"),
        ([UNTOUCHED], "inconclusive", "nothing_changed"),
    ],
)
def test_without_data_the_layers_decide(layers: list[LayerStatistics], outcome: Outcome, code: str) -> None:
    reached = judge({"nf4": layers}, {}, Policy()).overall
    assert reached.outcome == outcome
    assert [reason.code for reason in reached.reasons] == [code]


def test_the_layers_at_risk_are_named() -> None:
    reached = judge({"nf4": [layer("a"), CARRIED, layer("b")]}, {}, Policy()).overall
    assert reached.reasons[0].layers == ("a", "b")


@pytest.mark.parametrize(
    ("recovery", "unmeasured", "outcome", "code"),
    [
        (HELD, [], "pass", 0),
        (HELD, [failed_scheme("a")], "inconclusive", 4),
        (HELD, [failed_scheme("a", 3)], "inconclusive", 3),
        (HELD, [failed_scheme("a", 3), failed_scheme("b", 4)], "inconclusive", 4),
        (UNDECIDED, [failed_scheme("a")], "inconclusive", 4),
        (UNDECIDED, [], "inconclusive", 5),
        (RECOVERED, [failed_scheme("a")], "fail", 1),
    ],
)
def test_a_scheme_not_measured_weighs_more_than_doubt_and_less_than_a_failure(
    recovery: Recovery, unmeasured: list[SchemeFailed], outcome: Outcome, code: int
) -> None:
    judged = judge({}, {"nf4": {"verbmem_forget": recovery}}, Policy(), unmeasured)
    assert judged.overall.outcome == outcome
    assert exit_code(judged.overall, unmeasured) == code
    said = [reason.message for reason in judged.overall.reasons if reason.code == "not_measured"]
    assert said == [f"{failed.scheme} could not be measured: no backend" for failed in unmeasured]
    assert set(judged.schemes) == {"nf4"}


def test_exit_codes_are_those_of_the_design() -> None:
    assert EXIT_CODE_OF == {"pass": 0, "fail": 1, "inconclusive": 5}
