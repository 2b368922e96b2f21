import pytest

from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import Estimate, Kept, Knowledge, LayerStatistics, Outcome
from quail_audit.schema.policy import Policy
from quail_audit.verdict.checks import EXIT_CODE_OF, exit_code
from tests.support.judged_figures import (
    COMES_BACK,
    HOLDS,
    NOT_FORGOTTEN,
    REPORTED,
    UNDECIDED,
    UNINFORMATIVE,
    failed_scheme,
    knowledge,
)
from tests.support.small_run import UNTOUCHED, judge, layer

NO_FLOOR = Knowledge(outcome="no floor")
NO_ROUNDED_ARM = Knowledge(outcome="no rounded arm", floor=20.0, floor_arm="unlearned/full")
SWAPPED, BROKEN = Knowledge(outcome="swapped"), Knowledge(outcome="broken format", format_percent=12.0)
CARRIED = layer(state="carried", at_risk=False, overlap=0.9, survival=1.0)


@pytest.mark.parametrize(
    ("found", "outcome", "codes"),
    [
        ({"a": HOLDS}, "pass", ["holds"]),
        ({"a": COMES_BACK}, "fail", ["comes_back"]),
        ({"a": UNDECIDED}, "inconclusive", ["undecided"]),
        ({"a": UNINFORMATIVE}, "inconclusive", ["uninformative"]),
        ({"a": REPORTED}, "inconclusive", ["uninformative", "membership"]),
        ({"a": SWAPPED}, "fail", ["swapped"]),
        ({"a": BROKEN}, "inconclusive", ["broken_format"]),
        ({"a": HOLDS, "b": BROKEN}, "pass", ["holds"]),
        ({"a": NOT_FORGOTTEN}, "fail", ["not_forgotten"]),
        ({"a": HOLDS, "b": COMES_BACK}, "fail", ["comes_back", "holds"]),
        ({"a": HOLDS, "b": UNDECIDED}, "inconclusive", ["undecided", "holds"]),
        ({"a": HOLDS, "b": UNINFORMATIVE, "c": REPORTED}, "pass", ["holds", "membership"]),
        ({"a": HOLDS, "b": NOT_FORGOTTEN}, "fail", ["not_forgotten", "holds"]),
        ({"a": NO_FLOOR}, "inconclusive", ["no_floor"]),
        ({"a": NO_ROUNDED_ARM}, "inconclusive", ["no_rounded_arm"]),
        ({"a": HOLDS, "b": NO_FLOOR}, "inconclusive", ["no_floor", "holds"]),
        ({"a": NO_FLOOR, "b": NOT_FORGOTTEN}, "fail", ["not_forgotten", "no_floor"]),
    ],
)
def test_forgetting_decides(found: dict[str, Knowledge], outcome: Outcome, codes: list[str]) -> None:
    judged = judge({"nf4": [layer()]}, {"nf4": found}, Policy())
    reached = judged.overall
    assert judged.schemes == {"nf4": reached}
    assert reached.outcome == outcome
    assert [reason.code for reason in reached.reasons] == codes


def test_one_scheme_that_fails_fails_the_release_but_not_the_other_scheme() -> None:
    judged = judge({}, {"nf4": {"verbmem_forget": HOLDS}, "fp4": {"verbmem_forget": COMES_BACK}}, Policy())
    reached = judged.overall
    assert {scheme: verdict.outcome for scheme, verdict in judged.schemes.items()} == {"nf4": "pass", "fp4": "fail"}
    assert [reason.scheme for reason in reached.reasons] == ["fp4", "nf4"]
    assert reached.outcome == "fail"
    assert "fp4" in reached.reasons[0].message
    assert "97 %" in reached.reasons[0].message
    assert "91 to 103 %" in reached.reasons[0].message


def test_not_forgotten_is_said_once_for_all_schemes() -> None:
    found = {scheme: {"verbmem_forget": NOT_FORGOTTEN} for scheme in ("nf4", "fp4")}
    judged = judge({}, found, Policy())
    assert [reason.code for reason in judged.overall.reasons] == ["not_forgotten"]
    assert [verdict.outcome for verdict in judged.schemes.values()] == ["fail", "fail"]


@pytest.mark.parametrize(
    ("layers", "outcome", "code"),
    [
        ([layer(), CARRIED, UNTOUCHED], "fail", "layers_at_risk"),
        ([CARRIED, UNTOUCHED], "inconclusive", "weights_only"),
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
    ("known", "unmeasured", "outcome", "code"),
    [
        (HOLDS, [], "pass", 0),
        (HOLDS, [failed_scheme("a")], "inconclusive", 4),
        (HOLDS, [failed_scheme("a", 3)], "inconclusive", 3),
        (HOLDS, [failed_scheme("a", 3), failed_scheme("b", 4)], "inconclusive", 4),
        (UNDECIDED, [failed_scheme("a")], "inconclusive", 4),
        (UNDECIDED, [], "inconclusive", 5),
        (COMES_BACK, [failed_scheme("a")], "fail", 1),
    ],
)
def test_a_scheme_not_measured_weighs_more_than_doubt_and_less_than_a_failure(
    known: Knowledge, unmeasured: list[SchemeFailed], outcome: Outcome, code: int
) -> None:
    judged = judge({}, {"nf4": {"verbmem_forget": known}}, Policy(), unmeasured)
    assert judged.overall.outcome == outcome
    assert exit_code(judged.overall, unmeasured) == code
    said = [reason.message for reason in judged.overall.reasons if reason.code == "not_measured"]
    assert said == [f"{failed.scheme} could not be measured: no backend" for failed in unmeasured]
    assert set(judged.schemes) == {"nf4"}


def test_exit_codes_are_those_of_the_design() -> None:
    assert EXIT_CODE_OF == {"pass": 0, "fail": 1, "inconclusive": 5}


def kept(percent: float, standing: str = "above", format_percent: float = 99.0) -> Kept:
    utility = Estimate.model_validate(
        {"percent": percent, "low": percent - 5, "high": percent + 5, "items": 40, "standing": standing}
    )
    return Kept(utility=utility, format_percent=format_percent)


@pytest.mark.parametrize(
    ("utility", "outcome", "code"),
    [
        ({"verbmem_retain": kept(97.0)}, "pass", "utility_kept"),
        ({"verbmem_retain": kept(97.0), "knowmem_retain": kept(42.0, "within")}, "fail", "utility_lost"),
        ({"knowmem_retain": kept(82.0, "undecided")}, "pass", "utility_kept"),
        ({"knowmem_retain": kept(78.0, "undecided")}, "inconclusive", "utility_undecided"),
        ({"knowmem_retain": kept(42.0, "within", 30.0)}, "inconclusive", "broken_format"),
        ({"knowmem_retain": Kept(format_percent=3.0)}, "inconclusive", "broken_format"),
        ({"knowmem_retain": Kept()}, "pass", None),
        ({}, "pass", None),
    ],
)
def test_what_is_kept_has_a_say(utility: dict[str, Kept], outcome: Outcome, code: str | None) -> None:
    judged = judge({}, {"nf4": {"verbmem_forget": HOLDS}}, Policy(), utility={"nf4": utility})
    assert judged.overall.outcome == outcome
    codes = [reason.code for reason in judged.overall.reasons if reason.code != "holds"]
    assert codes == ([] if code is None else [code])


def test_that_utility_was_not_measured_is_a_rule_without_a_say() -> None:
    judged = judge({}, {"nf4": {"verbmem_forget": HOLDS}}, Policy())
    (rule,) = [rule for rule in judged.rules if rule.rule == "kept utility"]
    assert (rule.standing, rule.decides) == ("not judged", False)
    assert "utility was not measured" in rule.message


def test_membership_warns_and_decides_only_by_a_limit() -> None:
    found = {"nf4": {"verbmem_forget": HOLDS, "privleak": REPORTED}}
    warned = judge({}, found, Policy())
    assert warned.overall.outcome == "pass"
    assert [reason.code for reason in warned.overall.reasons] == ["holds", "membership"]
    for limit, outcome in ((50.0, "fail"), (85.0, "inconclusive"), (99.0, "pass")):  # 80 to 99
        policy = Policy.model_validate({"limits": {"max_membership_percent": limit}})
        assert judge({}, found, policy).overall.outcome == outcome


def test_weights_alone_pass_only_if_the_policy_accepts_that() -> None:
    accepts = Policy.model_validate({"limits": {"accept_weights_only": True}})
    assert judge({"nf4": [CARRIED]}, {}, accepts).overall.outcome == "pass"
    assert judge({"nf4": [layer(), CARRIED]}, {}, accepts).overall.outcome == "fail"
    reached = judge({"nf4": [CARRIED]}, {}, Policy()).overall
    assert "no layer is at risk; forgetting was not measured" in reached.reasons[0].message


def test_the_items_that_are_back_lead() -> None:
    found = {"a_forget": knowledge("comes back", 40.0, 30.0, 50.0, back=30), "b_forget": COMES_BACK}
    first, second = judge({}, {"nf4": found}, Policy()).overall.reasons
    assert "96 of 100 texts are back" in first.message
    assert "30 of 100 texts are back" in second.message
