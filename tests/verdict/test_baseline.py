"""A run against an earlier one: what failed then is known, what got worse fails. Worked out by hand in each case."""

from typing import Any

import pytest

from quail_audit.schema.figures import Knowledge, LayerStatistics, Outcome, Score, Verdict
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import ArmReport, Report, SchemeReport
from quail_audit.verdict.judge import judge_weighed
from tests.support.judged_figures import TODAY, knowledge
from tests.support.small_run import FACTS, REQUEST, SUMMARY, UNTOUCHED, layer


def interval(mean: float, low: float, high: float) -> Score:
    return Score(mean=mean, low=low, high=high, samples=50)


def known(percent: float, low: float, high: float) -> Knowledge:
    return knowledge("comes back" if low > 10 else "holds" if high <= 10 else "undecided", percent, low, high)


FORGET, RETAIN = interval(20, 15, 25), interval(90, 85, 95)


def report(
    verbmem: Knowledge | None,
    *,
    forget: Score = FORGET,
    retain: Score = RETAIN,
    layers: tuple[LayerStatistics, ...] = (UNTOUCHED,),
    run_id: str = "before",
    scheme: str = "nf4",
    **request: Any,
) -> Report:
    arm = ArmReport(execution="full precision", device="cpu", dtype="float32", reason="")
    metrics = {"verbmem_forget": {f"unlearned/{scheme}": forget}, "verbmem_retain": {f"unlearned/{scheme}": retain}}
    return Report(
        quail_version="0",
        run_id=run_id,
        started="2026-01-01T12:00:00+00:00",
        finished=None,
        exit_code=None,
        request=REQUEST.model_copy(update={"schemes": (scheme,), **request}),
        environment={},
        checkpoints={"original": FACTS},
        left_in_full_precision=(),
        samples={"verbmem_forget": 50},
        skipped={},
        arms={"unlearned/full": arm} if verbmem is not None else {},
        notes=(),
        verdict=Verdict(outcome="pass", reasons=()),
        failure=None,
        schemes={
            scheme: SchemeReport(
                summary=SUMMARY,
                layers=layers,
                metrics=metrics if verbmem is not None else {},
                knowledge={"verbmem_forget": verbmem} if verbmem is not None else {},
            )
        },
    )


HOLDS, BACK, LITTLE = known(3, 1, 6), known(60, 50, 70), known(8, 7, 9)
DOUBT, NOT_FORGOTTEN = known(12, 5, 20), knowledge("not forgotten", 92, 80, 99)


@pytest.mark.parametrize(
    ("then", "now", "outcome", "standing"),
    [
        (BACK, BACK, "pass", "known"),
        (BACK, known(75, 65, 85), "pass", "known"),  # worse, but the intervals overlap
        (BACK, known(90, 80, 99), "fail", "failed"),
        (BACK, known(30, 20, 40), "pass", "known"),  # better, and above the limit still
        (BACK, HOLDS, "pass", "passed"),
        (HOLDS, BACK, "fail", "failed"),
        (HOLDS, LITTLE, "fail", "passed"),  # within the limit, and surely more than it was
        (LITTLE, HOLDS, "pass", "passed"),
        (DOUBT, DOUBT, "pass", "known"),
        (HOLDS, DOUBT, "inconclusive", "not judged"),
        (DOUBT, BACK, "fail", "failed"),
        (NOT_FORGOTTEN, NOT_FORGOTTEN, "pass", "known"),
        (BACK, NOT_FORGOTTEN, "fail", "failed"),
        (NOT_FORGOTTEN, BACK, "pass", "known"),
    ],
)
def test_what_is_known(then: Knowledge, now: Knowledge, outcome: Outcome, standing: str) -> None:
    found = judge_weighed(report(now, run_id="now"), Policy(), TODAY, report(then))
    assert found.overall.outcome == outcome
    (rule,) = [rule for rule in found.rules if rule.rule == "forgetting"]
    assert rule.standing == standing
    assert judge_weighed(report(now), Policy(), TODAY).overall.outcome == {
        "comes back": "fail", "holds": "pass", "undecided": "inconclusive", "not forgotten": "fail"
    }[now.outcome]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"retain": interval(80, 70, 84)}, "fail"),
        ({"retain": interval(80, 70, 86)}, "pass"),
        ({"retain": interval(99, 98, 99)}, "pass"),
        ({"forget": interval(40, 30, 50)}, "fail"),
        ({"forget": interval(5, 1, 9)}, "pass"),
    ],
)
def test_a_score_that_no_rule_is_about(changes: dict[str, Score], outcome: Outcome) -> None:
    found = judge_weighed(report(HOLDS, run_id="now", **changes), Policy(), TODAY, report(HOLDS))
    assert found.overall.outcome == outcome
    baseline = [rule for rule in found.rules if rule.rule == "baseline"]
    assert [rule.standing for rule in baseline] == ["failed" if outcome == "fail" else "passed"]


CARRIED = layer("a", state="carried", at_risk=False, overlap=0.9, survival=0.9)
RISKY, OTHER = layer("a"), layer("b")


@pytest.mark.parametrize(
    ("then", "now", "outcome"),
    [
        ((RISKY, OTHER), (RISKY, OTHER), "pass"),
        ((RISKY, OTHER), (CARRIED, OTHER), "pass"),
        ((CARRIED, OTHER), (RISKY, OTHER), "fail"),
        ((RISKY,), (CARRIED,), "pass"),
        ((CARRIED,), (RISKY,), "fail"),
    ],
)
def test_layers_decide_without_data(
    then: tuple[LayerStatistics, ...], now: tuple[LayerStatistics, ...], outcome: Outcome
) -> None:
    found = judge_weighed(report(None, layers=now), Policy(), TODAY, report(None, layers=then))
    assert found.overall.outcome == outcome


def test_a_rule_is_known_by_the_same_policy_also_where_the_baseline_had_none() -> None:
    policy = Policy.model_validate({"rules": [{"name": "carry", "figure": "survival", "at_least": 0.95}]})
    weak = report(HOLDS, layers=(CARRIED,))
    assert judge_weighed(weak, policy, TODAY).overall.outcome == "fail"
    assert judge_weighed(weak, policy, TODAY, weak).overall.outcome == "pass"
    assert judge_weighed(weak, policy, TODAY, report(HOLDS, layers=(UNTOUCHED,))).overall.outcome == "fail"


def test_an_expired_waiver_is_not_known() -> None:
    waiver = {"rule": "forgetting", "reason": "r", "owner": "o", "expires": "2025-01-01"}
    policy = Policy.model_validate({"waivers": [waiver]})
    assert judge_weighed(report(HOLDS), policy, TODAY, report(HOLDS)).overall.outcome == "fail"


def test_other_data_and_other_schemes_are_said() -> None:
    found = judge_weighed(report(HOLDS, data="other"), Policy(), TODAY, report(HOLDS))
    assert found.notes == ("the baseline, run before: different data: data and other",)
    found = judge_weighed(report(HOLDS), Policy(), TODAY, report(HOLDS, scheme="fp4"))
    assert found.overall.outcome == "inconclusive"
    assert "measured none of these schemes" in found.overall.reasons[0].message


def test_what_got_worse_counts_at_its_scheme_and_can_be_waived() -> None:
    worse = report(HOLDS, retain=interval(80, 70, 84))
    found = judge_weighed(worse, Policy(), TODAY, report(HOLDS))
    assert found.schemes["nf4"].outcome == "fail"
    waiver = {"rule": "baseline", "metrics": "*_retain", "reason": "r", "owner": "o", "expires": "2027-01-01"}
    found = judge_weighed(worse, Policy.model_validate({"waivers": [waiver]}), TODAY, report(HOLDS))
    assert (found.overall.outcome, found.schemes["nf4"].outcome) == ("pass", "pass")
