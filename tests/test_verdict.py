import pytest
from runs_for_tests import RECOVERED, UNTOUCHED, layer

from quail_audit.events import LayerStatistics, Outcome, Recovery
from quail_audit.policy import Policy
from quail_audit.verdict import EXIT_CODE_OF, judge

HELD = Recovery(outcome="held", percent=1.0, low=0.0, high=5.0, floor=20.0, floor_arm="unlearned/full")
UNDECIDED = Recovery(outcome="undecided", percent=9.0, low=2.0, high=30.0, floor=20.0, floor_arm="unlearned/full")
UNINFORMATIVE = Recovery(outcome="uninformative")
NOT_FORGOTTEN = Recovery(outcome="not forgotten")
REPORTED = Recovery(outcome="reported only", percent=90.0)
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
    ],
)
def test_forgetting_decides(recoveries: dict[str, Recovery], outcome: Outcome, codes: list[str]) -> None:
    reached = judge({"nf4": [layer()]}, {"nf4": recoveries}, Policy())
    assert reached.outcome == outcome
    assert [reason.code for reason in reached.reasons] == codes


def test_one_scheme_that_fails_fails_the_release() -> None:
    reached = judge({}, {"nf4": {"verbmem_forget": HELD}, "fp4": {"verbmem_forget": RECOVERED}}, Policy())
    assert reached.outcome == "fail"
    assert "fp4" in reached.reasons[0].message
    assert "98 %" in reached.reasons[0].message
    assert "80 to 104 %" in reached.reasons[0].message


def test_not_forgotten_is_said_once_for_all_schemes() -> None:
    recoveries = {scheme: {"verbmem_forget": NOT_FORGOTTEN} for scheme in ("nf4", "fp4")}
    assert [reason.code for reason in judge({}, recoveries, Policy()).reasons] == ["not_forgotten"]


@pytest.mark.parametrize(
    ("layers", "outcome", "code"),
    [
        ([layer(), CARRIED, UNTOUCHED], "fail", "layers_at_risk"),
        ([CARRIED, UNTOUCHED], "pass", "layers_carried"),
        ([UNTOUCHED], "inconclusive", "nothing_changed"),
    ],
)
def test_without_data_the_layers_decide(layers: list[LayerStatistics], outcome: Outcome, code: str) -> None:
    reached = judge({"nf4": layers}, {}, Policy())
    assert reached.outcome == outcome
    assert [reason.code for reason in reached.reasons] == [code]


def test_the_layers_at_risk_are_named() -> None:
    reached = judge({"nf4": [layer("a"), CARRIED, layer("b")]}, {}, Policy())
    assert reached.reasons[0].layers == ("a", "b")


def test_exit_codes_are_those_of_the_design() -> None:
    assert EXIT_CODE_OF == {"pass": 0, "fail": 1, "inconclusive": 5}
