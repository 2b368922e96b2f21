"""Rules of a policy held against figures made by hand: each outcome worked out in the case itself."""

from collections.abc import Mapping

import pytest

from quail_audit.schema.figures import Estimate, Knowledge, LayerStatistics, Outcome, RuleOutcome, Score
from quail_audit.schema.policy import Policy
from quail_audit.verdict.checks import Judgement
from tests.support.judged_figures import (
    COMES_BACK,
    HOLDS,
    NOT_FORGOTTEN,
    REPORTED,
    TODAY,
    UNDECIDED,
    UNINFORMATIVE,
    failed_scheme,
    knowledge,
)
from tests.support.small_run import UNTOUCHED, judge, layer

CARRIED = layer("model.layers.0.mlp.up_proj", state="carried", at_risk=False, overlap=0.9, survival=0.9)
WEAK = layer("model.layers.1.mlp.up_proj", state="carried", at_risk=False, overlap=0.9, survival=0.6)
QUERY = layer("model.layers.0.self_attn.q_proj", state="carried", at_risk=False, overlap=0.9, survival=0.7)


def judged(
    policy: Mapping[str, object],
    *,
    layers: tuple[LayerStatistics, ...] = (CARRIED, WEAK, QUERY, UNTOUCHED),
    known: Mapping[str, Knowledge] | None = None,
    scores: Mapping[str, Score] | None = None,
    samples: Mapping[str, int] | None = None,
    scheme: str = "nf4",
) -> Judgement:
    limits = policy.get("limits", {})
    assert isinstance(limits, dict)
    return judge(
        {scheme: layers},
        {scheme: known or {}},
        Policy.model_validate({**policy, "limits": {"accept_weights_only": True, **limits}}),
        scores={scheme: scores or {}},
        samples=samples,
        today=TODAY,
    )


def the_rule(found: Judgement, name: str) -> RuleOutcome:
    (rule,) = [rule for rule in found.rules if rule.rule == name]
    return rule


def rule(figure: str, **keys: object) -> dict[str, object]:
    return {"rules": [{"name": "mine", "figure": figure, **keys}]}


@pytest.mark.parametrize(
    ("keys", "standing", "value", "failing", "outcome"),
    [
        ({"layers": "*.mlp.*", "at_least": 0.8}, "failed", 0.6, ("model.layers.1.mlp.up_proj",), "fail"),
        ({"layers": "*.mlp.*", "at_least": 0.6}, "passed", 0.6, (), "pass"),
        ({"layers": "*.self_attn.*", "at_least": 0.7, "at_most": 0.7}, "passed", 0.7, (), "pass"),
        ({"layers": ["*.self_attn.*", "*.0.mlp.*"], "at_most": 0.8}, "failed", 0.9, (CARRIED.name,), "fail"),
        ({"layers": "*.mpl.*", "at_least": 0.8}, "not judged", None, (), "inconclusive"),
        ({"schemes": "fp4*", "at_least": 0.8}, "not judged", None, (), "pass"),
        ({"schemes": ["fp4*", "nf?"], "at_least": 0.1}, "passed", 0.6, (), "pass"),
    ],
)
def test_a_rule_of_layers(
    keys: dict[str, object], standing: str, value: float | None, failing: tuple[str, ...], outcome: Outcome
) -> None:
    found = judged(rule("survival", **keys), layers=(CARRIED, WEAK, QUERY))
    mine = the_rule(found, "mine")
    assert (mine.standing, mine.value, mine.layers) == (standing, value, failing)
    assert found.overall.outcome == outcome


def test_layers_that_did_not_change_have_no_survival_to_lack() -> None:
    found = judged(rule("survival", layers=UNTOUCHED.name, at_least=0.8))
    assert the_rule(found, "mine").standing == "passed"
    spoilt = layer("x", state=None, survival=None, at_risk=False)
    assert the_rule(judged(rule("survival", at_least=0.8), layers=(spoilt,)), "mine").standing == "not judged"


def test_rules_of_layers_count_with_data_too() -> None:
    found = judged(rule("survival", at_least=0.8), known={"verbmem_forget": HOLDS})
    assert found.overall.outcome == "fail"
    assert [rule.rule for rule in found.rules] == ["forgetting", "kept utility", "mine"]


@pytest.mark.parametrize(
    ("measured", "standing", "outcome"),
    [
        (HOLDS, "passed", "pass"),  # 0 to 5
        (COMES_BACK, "failed", "fail"),  # 91 to 103
        (knowledge("holds", 4.0, 1.0, 7.0), "not judged", "inconclusive"),
        (NOT_FORGOTTEN, "failed", "fail"),
        (UNINFORMATIVE, "not judged", "inconclusive"),
    ],
)
def test_a_rule_of_known_is_judged_by_the_interval(measured: Knowledge, standing: str, outcome: Outcome) -> None:
    found = judged(rule("known", at_most=5.0), known={"verbmem_forget": measured})
    assert the_rule(found, "mine").standing == standing
    assert found.overall.outcome == outcome


def test_a_rule_of_items_back_is_judged_by_their_share() -> None:
    for most, standing in ((99.0, "passed"), (97.0, "not judged"), (80.0, "failed")):  # 92 to 100
        found = judged(
            rule("back", at_most=most), known={"verbmem_forget": knowledge("comes back", 97, 91, 103, back=95)}
        )
        assert the_rule(found, "mine").standing == standing


def test_a_metric_that_is_reported_only_has_a_say_by_a_rule() -> None:
    policy = rule("known", metrics="privleak", at_most=50.0)
    low = REPORTED
    assert judged({}, known={"privleak": low, "verbmem_forget": HOLDS}).overall.outcome == "pass"
    assert judged(policy, known={"privleak": low, "verbmem_forget": HOLDS}).overall.outcome == "fail"
    alone = REPORTED.model_copy(update={"known": Estimate(percent=3.0, low=1.0, high=9.0, items=40)})
    assert judged(policy, known={"privleak": alone}).overall.outcome == "pass"
    assert judged({}, known={"privleak": alone}).overall.outcome == "inconclusive"


@pytest.mark.parametrize(
    ("limits", "standing"),
    [
        ({"at_least": 80.0}, "passed"),
        ({"at_least": 85.0}, "not judged"),
        ({"at_least": 95.0}, "failed"),
        ({"at_most": 95.0}, "passed"),
        ({"at_most": 75.0}, "failed"),
        ({"at_least": 0.0, "at_most": 85.0}, "not judged"),
    ],
)
def test_a_rule_of_scores(limits: dict[str, object], standing: str) -> None:
    policy = rule("score", metrics="knowmem_retain", **limits)
    score = Score(mean=85.0, low=80.0, high=90.0, samples=50)
    found = judged(policy, known={"verbmem_forget": HOLDS}, scores={"knowmem_retain": score})
    mine = the_rule(found, "mine")
    assert (mine.standing, mine.value, mine.low, mine.high) == (standing, 85.0, 80.0, 90.0)


def test_a_score_that_was_not_measured_leaves_doubt() -> None:
    found = judged(rule("score", metrics="knowmem_retian", at_least=1.0), known={"verbmem_forget": HOLDS})
    assert found.overall.outcome == "inconclusive"
    assert "knowmem_retian" in found.overall.reasons[0].message


@pytest.mark.parametrize(
    ("required", "outcome", "said"),
    [
        ({"metrics": ["verbmem_forget"]}, "pass", []),
        ({"metrics": ["knowmem_forget"]}, "fail", ["knowmem_forget, which was not measured"]),
        ({"schemes": ["nf4"]}, "pass", []),
        ({"schemes": ["nf4", "int8"]}, "fail", ["int8, which was not asked for"]),
        ({"samples": {"verbmem_forget": 50}}, "pass", []),
        ({"samples": {"verbmem_forget": 51}}, "fail", ["51 samples of verbmem_forget, and 50 were scored"]),
        ({"samples": {"knowmem_forget": 1}}, "fail", ["and 0 were scored"]),
    ],
)
def test_what_is_required(required: dict[str, object], outcome: Outcome, said: list[str]) -> None:
    found = judged({"required": required}, known={"verbmem_forget": HOLDS}, samples={"verbmem_forget": 50})
    assert found.overall.outcome == outcome
    failing = [rule.message for rule in found.rules if rule.standing == "failed"]
    assert len(failing) == len(said)
    for message, part in zip(failing, said, strict=True):
        assert part in message


def test_a_required_scheme_that_could_not_be_measured_is_not_judged() -> None:
    policy = Policy.model_validate({"required": {"schemes": ["gptq"]}})
    found = judge({}, {"nf4": {"a": HOLDS}}, policy, [failed_scheme("gptq")], today=TODAY)
    assert the_rule(found, "required scheme").standing == "not judged"
    assert found.overall.outcome == "inconclusive"


def waiver(**keys: object) -> dict[str, object]:
    return {"rule": "forgetting", "reason": "agreed", "owner": "ana", "expires": "2026-01-01", **keys}


@pytest.mark.parametrize(
    ("keys", "standing", "outcome"),
    [
        ({}, "waived", "pass"),  # its last day
        ({"rule": "*"}, "waived", "pass"),
        ({"schemes": "nf4", "metrics": "verbmem_*"}, "waived", "pass"),
        ({"schemes": "fp4"}, "failed", "fail"),
        ({"metrics": "knowmem_*"}, "failed", "fail"),
        ({"layers": "*"}, "failed", "fail"),  # it is about layers, the failure is not
        ({"rule": "layers at risk"}, "failed", "fail"),
    ],
)
def test_a_waiver_lets_pass_what_it_is_about(keys: dict[str, object], standing: str, outcome: Outcome) -> None:
    found = judged({"waivers": [waiver(**keys)]}, known={"verbmem_forget": COMES_BACK})
    assert the_rule(found, "forgetting").standing == standing
    assert found.overall.outcome == found.schemes["nf4"].outcome == outcome
    assert bool(found.notes) == (standing == "failed")
    if standing == "waived":
        assert "waived until 2026-01-01 by ana: agreed" in found.overall.reasons[0].message
        assert found.overall.reasons[0].code == "waived"


def test_an_expired_waiver_fails_by_itself() -> None:
    late = {"waivers": [waiver(expires="2025-12-31")]}
    for measured, failed in ((COMES_BACK, ["forgetting", "expired waiver"]), (HOLDS, ["expired waiver"])):
        found = judged(late, known={"verbmem_forget": measured})
        assert found.overall.outcome == "fail"
        assert [rule.rule for rule in found.rules if rule.standing == "failed"] == failed
        assert not found.notes
    everything = {"waivers": [waiver(expires="2025-12-31"), waiver(rule="*")]}
    assert judged(everything, known={"verbmem_forget": HOLDS}).overall.outcome == "fail"


def test_doubt_can_be_waived_and_a_pass_needs_no_waiver() -> None:
    assert judged({"waivers": [waiver()]}, known={"verbmem_forget": UNDECIDED}).overall.outcome == "pass"
    found = judged({"waivers": [waiver()]}, known={"verbmem_forget": HOLDS})
    assert the_rule(found, "forgetting").standing == "passed"
    assert found.notes == ("the waiver of forgetting by ana waived nothing and can be removed",)


def test_failing_layers_are_waived_only_where_each_is_named() -> None:
    erased = (layer("model.layers.0.mlp.x"), layer("model.layers.1.mlp.x"), CARRIED)
    zero = waiver(rule="layers at risk", layers="model.layers.0.*")
    one = waiver(rule="layers at risk", layers="model.layers.1.*", owner="bo")
    assert judged({"waivers": [zero]}, layers=erased).overall.outcome == "fail"
    found = judged({"waivers": [zero, one]}, layers=erased)
    assert found.overall.outcome == "pass"
    assert [each.owner for each in the_rule(found, "layers at risk").waivers] == ["ana", "bo"]
    assert not found.notes


def test_every_rule_is_said_with_its_limit() -> None:
    policy = {"limits": {"where": [{"metrics": "knowmem_*", "max_known_percent": 30.0}]}}
    found = judged(policy, known={"verbmem_forget": HOLDS, "knowmem_forget": COMES_BACK, "privleak": REPORTED})
    assert [
        (rule.metric, rule.standing, rule.value, rule.at_most) for rule in found.rules if rule.rule == "forgetting"
    ] == [
        ("knowmem_forget", "failed", 97.0, 30.0),
        ("verbmem_forget", "passed", 1.0, 10.0),
    ]
