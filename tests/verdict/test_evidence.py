"""Weighing: hand-worked cases, a plain second implementation, and the pairs that must come out right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quail_audit.schema.figures import Knowledge, Outcome
from quail_audit.schema.policy import Limits, Policy
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.verdict.confidence import ENOUGH, Share, holm
from quail_audit.verdict.evidence import weigh
from quail_audit.verdict.judge import day_of, judge_report
from tests.support.small_run import events, report_of

Scores = Mapping[str, Sequence[float]]


def audited(
    metrics: Mapping[str, Scores], *, schemes: Sequence[str] = ("nf4",), population: int | None = None
) -> Report:
    """The report of an audit that measured these scores: metric -> arm -> score of each item, in points."""
    empty = SchemeReport(summary=None, layers=(), metrics={})
    return report_of(*list(events())[:3]).model_copy(
        update={
            "schemes": dict.fromkeys(schemes, empty),
            "items": {m: {arm: tuple(map(float, each)) for arm, each in arms.items()} for m, arms in metrics.items()},
            "population": dict.fromkeys(metrics, population) if population is not None else {},
        }
    )


def arms(
    original: Sequence[float],
    unlearned: Sequence[float],
    deployed: Sequence[float],
    reference: Sequence[float] | None = None,
    rounded: Sequence[float] | None = None,
) -> Scores:
    found = {
        "original/full": original,
        "unlearned/full": unlearned,
        "original/nf4": original if rounded is None else rounded,
        "unlearned/nf4": deployed,
    }
    return found if reference is None else {**found, "retrain/full": reference}


def knowledge(scores: Scores, **more: object) -> Knowledge:
    report = audited({"verbmem_forget": scores}, **more)  # type: ignore[arg-type]
    return weigh(report, Limits()).knowledge["nf4"]["verbmem_forget"]


def some(share: float, items: int, high: float = 100.0, low: float = 5.0) -> list[float]:
    """Scores of which such a share is high, spread over the items."""
    count = round(share * items)
    return [high if (place * count) % items < count else low for place in range(items)]


def test_the_figures_of_a_case_by_hand() -> None:
    """Four texts. Known: (40 - 10) / (90 - 10), as the means say. Back: above the middle of 10 and 90, which one is."""
    found = knowledge(arms([90] * 4, [10, 10, 10, 30], [20, 30, 20, 90], reference=[10] * 4))
    assert found.known is not None
    assert found.residual is not None
    assert found.back is not None
    assert found.kept is not None
    assert found.known.percent == pytest.approx(100 * (40 - 10) / (90 - 10))
    assert found.residual.percent == pytest.approx(100 * (15 - 10) / (90 - 10))
    assert found.came_back_percent == pytest.approx(37.5 - 6.25)
    assert (found.back.count, found.back.items, found.kept.count) == (1, 4, 0)
    assert (found.floor, found.floor_arm) == (pytest.approx(10.0), "retrain/full")
    assert found.format_percent == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("original", "floor", "score", "is_back"),
    [(100, 20, 60, False), (100, 20, 60.1, True), (30, 20, 25.1, True), (29.9, 20, 29.9, False), (50, 60, 55, False)],
)
def test_an_item_is_back_above_the_middle(original: float, floor: float, score: float, is_back: bool) -> None:
    found = knowledge(arms([original, 100], [5, 5], [score, 5], reference=[floor, 5]))
    assert found.back is not None
    assert found.back.count == is_back


TEXTS = 96
KNOWS, LOST, NEVER = [100.0] * TEXTS, [8.0] * TEXTS, [19.0] * TEXTS


@pytest.mark.parametrize(
    ("scores", "more", "outcome", "code"),
    [
        (arms(KNOWS, [92.0] * TEXTS, [92.0] * TEXTS, NEVER), {}, "fail", "not_forgotten"),
        (arms(KNOWS, some(0.5, TEXTS), some(0.5, TEXTS), NEVER), {}, "fail", "not_forgotten"),
        (arms(KNOWS, some(0.5, TEXTS), some(0.5, TEXTS)), {}, "fail", "not_forgotten"),  # without a reference
        (arms(KNOWS, LOST, KNOWS, NEVER), {}, "fail", "comes_back"),
        (arms(KNOWS, LOST, some(0.25, TEXTS, low=0.0), NEVER), {}, "fail", "comes_back"),
        (arms(KNOWS, LOST, some(0.15, TEXTS, low=0.0), NEVER), {"population": TEXTS}, "fail", "comes_back"),
        (arms(KNOWS, LOST, some(0.05, TEXTS, low=0.0), NEVER), {"population": TEXTS}, "pass", "holds"),
        (arms(KNOWS[:6], LOST[:6], LOST[:6], NEVER[:6]), {}, "inconclusive", "undecided"),
        (arms(KNOWS[:2], LOST[:2], LOST[:2], NEVER[:2]), {}, "inconclusive", "undecided"),
        (arms(KNOWS[:1], LOST[:1], KNOWS[:1], NEVER[:1]), {}, "inconclusive", "undecided"),
        (arms(KNOWS, NEVER, NEVER, NEVER), {}, "pass", "holds"),
        (arms(KNOWS, LOST, LOST, NEVER), {}, "pass", "holds"),
        (arms(KNOWS, LOST, LOST), {}, "pass", "holds"),
        (arms(KNOWS, KNOWS, KNOWS), {}, "fail", "not_forgotten"),
        (arms(NEVER, KNOWS, KNOWS), {}, "fail", "swapped"),
        (arms(NEVER, KNOWS, KNOWS, NEVER), {}, "fail", "swapped"),
        (arms(NEVER, NEVER, NEVER, KNOWS), {}, "inconclusive", "uninformative"),  # the floor knows more
        (arms([7.0] * TEXTS, [7.0] * TEXTS, [7.0] * TEXTS, [7.0] * TEXTS), {}, "inconclusive", "uninformative"),
        (arms(KNOWS, LOST, LOST, NEVER, rounded=[30.0] * TEXTS), {}, "inconclusive", "broken_format"),
    ],
)
def test_pairs_that_must_come_out_right(scores: Scores, more: dict[str, int], outcome: Outcome, code: str) -> None:
    report = audited({"verbmem_forget": scores}, **more)  # type: ignore[arg-type]
    reached = judge_report(report, Policy(), day_of(report)).overall
    assert reached.outcome == outcome
    assert reached.reasons[0].code == code


def test_a_share_that_is_not_declared_complete_is_never_passed() -> None:
    report = audited({"verbmem_forget": arms(KNOWS, LOST, some(0.15, TEXTS, low=0.0), NEVER)})
    assert judge_report(report, Policy(), day_of(report)).overall.outcome in ("fail", "inconclusive")


@pytest.mark.parametrize("items", [6, 20])
def test_how_many_items_would_decide_is_said(items: int) -> None:
    found = knowledge(arms(KNOWS[:items], NEVER[:items], NEVER[:items], NEVER[:items]))
    assert found.outcome == "undecided"
    assert found.back is not None
    assert found.items_needed is not None
    assert found.back.high == pytest.approx(100 * (1 - 0.05 ** (1 / items)), abs=0.3)  # the exact binomial bound
    enough = found.items_needed
    assert knowledge(arms(KNOWS[:enough], NEVER[:enough], NEVER[:enough], NEVER[:enough])).outcome == "holds"


def test_refused_at_the_first_tokens_and_known_behind_them_fails() -> None:
    """The greedy answer is lost; the truth's probability and its extraction strength are nearly the original's."""
    greedy = arms(KNOWS, LOST, LOST, NEVER)
    strength = arms(KNOWS, [91.0] * TEXTS, [91.0] * TEXTS, [2.0] * TEXTS)
    report = audited({"verbmem_forget": greedy, "verbmem_extraction_strength_forget": strength})
    judged = judge_report(report, Policy(), day_of(report))
    assert judged.overall.outcome == "fail"
    assert judged.overall.reasons[0].code == "not_forgotten"
    found = judged.weighed.knowledge["nf4"]
    assert [found[metric].outcome for metric in report.items] == ["holds", "not forgotten"]


def test_one_scheme_of_several_that_leaks_fails_alone() -> None:
    scores = dict(arms(KNOWS, LOST, LOST, NEVER)) | {"original/fp4": KNOWS, "unlearned/fp4": KNOWS}
    report = audited({"verbmem_forget": scores}, schemes=("nf4", "fp4"))
    judged = judge_report(report, Policy(), day_of(report))
    assert {scheme: each.outcome for scheme, each in judged.schemes.items()} == {"nf4": "pass", "fp4": "fail"}


def test_many_schemes_need_more_items_than_one() -> None:
    """All 20 hold by 40 items each alone, but not together: Holm asks ln 20 more of the first."""
    schemes = [f"s{number}" for number in range(20)]
    for items, outcome in ((40, "undecided"), (TEXTS, "holds")):
        scores = {"original/full": KNOWS[:items], "unlearned/full": LOST[:items], "retrain/full": [0.0] * items}
        for scheme in schemes:
            scores |= {f"original/{scheme}": KNOWS[:items], f"unlearned/{scheme}": [0.0] * items}
        found = weigh(audited({"verbmem_forget": scores}, schemes=schemes), Limits()).knowledge
        assert {each["verbmem_forget"].outcome for each in found.values()} == {outcome}
        alone = weigh(audited({"verbmem_forget": scores}, schemes=schemes[:1]), Limits()).knowledge
        assert alone["s0"]["verbmem_forget"].outcome == "holds"


def test_stored_checkpoints_have_fewer_arms() -> None:
    stored = {"original/nf4": KNOWS, "unlearned/nf4": LOST}
    assert knowledge(stored).outcome == "no floor"
    assert knowledge({**stored, "unlearned/nf4": KNOWS}).outcome == "not forgotten"
    assert knowledge({**stored, "retrain/full": NEVER}).outcome == "holds"
    back = knowledge({**stored, "unlearned/nf4": KNOWS, "retrain/nf4": NEVER})
    assert (back.outcome, back.residual, back.floor_arm) == ("comes back", None, "retrain/nf4")
    one_full = {"original/nf4": KNOWS, "unlearned/full": LOST}
    assert knowledge(one_full).outcome == "no rounded arm"
    assert knowledge({**one_full, "unlearned/full": KNOWS}).outcome == "not forgotten"


def test_arms_that_were_asked_more_items_count_by_those_of_all() -> None:
    scores = dict(arms(KNOWS, LOST, LOST[:40], NEVER))
    found = knowledge(scores)
    assert found.back is not None
    assert found.back.items == 40


def test_what_is_kept_is_a_share_of_the_original_at_the_same_scheme() -> None:
    retain = arms([80.0] * 40, [80.0] * 40, [30.0] * 40, rounded=[60.0] * 40)
    found = weigh(audited({"knowmem_retain": retain}), Limits()).utility["nf4"]["knowmem_retain"]
    assert found.utility is not None
    assert found.utility.percent == pytest.approx(50.0)
    assert found.format_percent == pytest.approx(75.0)
    assert found.utility.standing == "within"  # below the least
    nothing = weigh(audited({"knowmem_retain": arms([4.0] * 9, [4.0] * 9, [0.0] * 9)}), Limits())
    assert nothing.utility["nf4"]["knowmem_retain"].utility is None


def test_other_limits_of_a_metric_count() -> None:
    report = audited({"verbmem_forget": arms(KNOWS, LOST, some(0.25, TEXTS, low=0.0), NEVER)})
    loose = Limits.model_validate(
        {"where": [{"metrics": "verbmem_*", "max_back_percent": 60.0, "max_known_percent": 60.0}]}
    )
    assert weigh(report, loose).knowledge["nf4"]["verbmem_forget"].outcome == "holds"
    assert weigh(report, Limits()).knowledge["nf4"]["verbmem_forget"].outcome == "comes back"


def plain_outcome(o: list[float], u: list[float], q: list[float], r: list[float], limit: float) -> str:
    """The rules of one metric at one scheme with a reference, in loops, by the evidence of Share."""
    items = range(len(o))
    mean = {name: sum(each) / len(o) for name, each in {"o": o, "u": u, "q": q, "r": r}.items()}
    if mean["u"] - mean["o"] >= 0.05 and mean["u"] - mean["r"] >= 0.05:
        return "swapped"
    if mean["o"] - mean["r"] < 0.05:
        return "uninformative"
    shares = {}
    for name, each in {"u": u, "q": q}.items():
        back = [each[i] - r[i] > 0.5 * (o[i] - r[i]) and o[i] - r[i] >= 0.1 for i in items]
        shares[name] = Share(np.array(each), np.array(o), np.array(r)), Share(np.array(back, dtype=float))
    asked = [(name, float(share.log_evidence_above(limit))) for name in ("u", "q") for share in shares[name]]
    decided, left = [], len(asked)
    for name, evidence in sorted(asked, key=lambda pair: -pair[1]):
        if evidence < math.log(20 * left):
            break
        decided.append(name)
        left -= 1
    if "u" in decided:
        return "not forgotten"
    if "q" in decided:
        return "comes back"
    within = min(float(share.log_evidence_within(limit)) for share in shares["q"])
    return "holds" if within >= math.log(20) else "undecided"


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 150),
    means=st.tuples(*[st.sampled_from([0.02, 0.1, 0.3, 0.6, 0.95])] * 4),
    limit=st.sampled_from([5.0, 10.0, 40.0]),
)
def test_every_outcome_is_that_of_the_rules_in_loops(
    seed: int, items: int, means: tuple[float, float, float, float], limit: float
) -> None:
    generator = np.random.default_rng(seed)
    drawn = [np.clip(mean + generator.normal(0, 0.1, items), 0, 1).round(5) for mean in means]
    o, u, q, r = (each.tolist() for each in drawn)
    scores = {
        arm: [100 * score for score in each]
        for arm, each in {"original/full": o, "unlearned/full": u, "unlearned/nf4": q, "retrain/full": r}.items()
    }
    limits = Limits(max_known_percent=limit, max_back_percent=limit)
    found = weigh(audited({"verbmem_forget": scores}), limits).knowledge["nf4"]["verbmem_forget"]
    assert found.outcome == plain_outcome(o, u, q, r, limit / 100)
    for figure in (found.known, found.residual, found.back, found.kept):
        if figure is not None:
            assert (figure.standing == "above") == (figure.low > limit)
            assert (figure.standing == "within") == (figure.high <= limit + 1e-4)


@pytest.mark.parametrize(
    ("p_values", "decided"),
    [
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),  # Holm's steps: 0.0125, 0.0167, 0.025
        ([0.05], [True]),
        ([0.06, 0.0001], [False, True]),
        ([0.03, 0.03], [False, False]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], decided: list[bool]) -> None:
    evidence = [-math.log(p) for p in p_values]
    needed = holm(evidence)
    assert [each >= least - 1e-12 for each, least in zip(evidence, needed, strict=True)] == decided
    assert all(least >= ENOUGH for least in needed)
