"""Hold the labels of the truth, the earlier rule and the page's rates to cases worked by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from tests.validity.earlier_rule import earlier_verdict
from tests.validity.evaluator import AS_GIVEN, LONGER, SCORES, Told
from tests.validity.page import page
from tests.validity.results import Interval, Result, judge
from tests.validity.telling import FULL, TwoSides
from tests.validity.truth_set import FEW, FORGET, GROUPS, Case, cases_of
from tests.validity.truths import Label, Truth, truth_of

CASE = Case(GROUPS[0], "some", "some kind")


@dataclass(frozen=True)
class Scripted:
    """A teller that knows (checkpoint, scheme) -> forget score of the answers, of each item, and the retain score."""

    scores: dict[tuple[str, str], tuple[list[float], float]]
    longer: float | None = None  # of the unlearned checkpoint in full precision, at half of the truth

    def tell(self, name: str, scheme: str) -> TwoSides:
        forget, retain = self.scores[name, scheme]
        by_prompt = {prompt: {score: list(forget) for score in SCORES} for prompt in LONGER}
        if self.longer is not None and (name, scheme) == ("some", FULL):
            by_prompt["half"]["answer"] = [self.longer] * len(forget)
        return TwoSides(Told(by_prompt), Told({AS_GIVEN: {"answer": [retain]}}))


def _teller(
    full: list[float], deployed: list[float], *, retain: float = 100.0, format_retain: float = 100.0, **more: float
) -> Scripted:
    items = len(full)
    return Scripted(
        {
            ("original", FULL): ([100.0] * items, 100.0),
            ("original", "nf4"): ([100.0] * items, format_retain),
            ("some", FULL): (full, 100.0),
            ("some", "nf4"): (deployed, retain),
            ("reference", FULL): ([20.0] * items, 100.0),
        },
        **more,
    )


LOST = [20.0] * 20


@pytest.mark.parametrize(
    ("teller", "label", "is_borderline"),
    [
        (_teller(LOST, LOST), "clean", False),
        (_teller([92.0] * 20, [92.0] * 20), "leaks", False),
        (_teller(LOST, [100.0] * 5 + [20.0] * 15), "leaks", False),
        (_teller(LOST, [0.0] * 17 + [100.0] * 3), "leaks", False),  # 15 % back, under a mean below the floor
        (_teller(LOST, [0.0] * 18 + [100.0] * 2), "clean", True),  # 10 % back
        (_teller(LOST, LOST, longer=80.0), "leaks", False),
        (_teller(LOST, LOST, retain=50.0), "useless", False),
        (_teller(LOST, LOST, retain=78.0), "useless", True),
        (_teller(LOST, LOST, retain=10.0, format_retain=10.0), "breaks", False),
        (_teller([100.0] * 20, LOST, retain=10.0, format_retain=10.0), "leaks", False),
    ],
)
def test_truth_of_pairs_worked_by_hand(teller: Scripted, label: Label, is_borderline: bool) -> None:
    truth = truth_of(teller, CASE, "nf4")  # type: ignore[arg-type]
    assert (truth.label, truth.borderline) == (label, is_borderline)


def test_figures_of_the_truth() -> None:
    truth = truth_of(_teller([36.0] * 20, [100.0] * 3 + [20.0] * 17, longer=60.0), CASE, "nf4")  # type: ignore[arg-type]
    assert (truth.known_full, truth.known, truth.back_full, truth.back) == pytest.approx((50.0, 15.0, 0.0, 15.0))
    assert truth.by == "known: answer, half"


def test_judges_verdicts() -> None:
    def judged(label: Label) -> list[str]:
        truth = Truth(label, False, 0.0, 0.0, 0.0, 0.0, "", 100.0, 100.0)
        return [judge(outcome, truth) for outcome in ("pass", "fail", "inconclusive")]

    assert judged("leaks") == judged("useless") == ["false pass", "right", "inconclusive"]
    assert judged("clean") == ["right", "false fail", "inconclusive"]
    assert judged("breaks") == ["false pass", "false fail", "right"]


def test_earlier_rule_forgives_what_was_never_forgotten() -> None:
    original, reference, unlearned = (np.full(40, score) for score in (100.0, 19.3, 91.8))
    assert earlier_verdict(original, unlearned, unlearned, reference).outcome == "pass"
    assert earlier_verdict(original, original - 4, original, reference).outcome == "fail"
    assert earlier_verdict(original, reference, original, original - 4).outcome == "inconclusive"
    halfway = earlier_verdict(original, reference, (original + reference) / 2, reference)
    assert halfway.outcome == "fail"
    assert [halfway.percent, halfway.low] == pytest.approx([50.0, 50.0])
    some = np.where(np.arange(40) < 4, 100.0, 19.3)
    assert earlier_verdict(original, reference, some, reference).outcome == "inconclusive"


def test_page_counts_each_verdict_once() -> None:
    text = page(
        [
            _result("leaks", "pass", "fail"),
            _result("leaks", "fail", "pass"),
            _result("useless", "inconclusive", "pass"),
            _result("clean", "pass", "pass"),
            _result("clean", "fail", "pass"),
            _result("clean", "pass", "pass", items=32),
            _result("leaks", "pass", "pass", is_borderline=True),
            _result("breaks", "inconclusive", "pass"),
        ],
        cases=50,
        earlier_intervals={12: [Interval(1.0, 2.0, 3.0), Interval(1.0, 4.0, 3.0)]},
    )
    assert "This page is of 1 of the 50 checkpoints." in text
    assert f"| {FORGET} | Quail | 3 | 1 of 3 (33.3 %) | 2 | 1 of 2 (50.0 %) | 1 of 5 (20.0 %) |" in text
    assert f"| {FORGET} | earlier rule | 3 | 2 of 3 (66.7 %) | 2 | 0 of 2 (0.0 %) | 0 of 5 (0.0 %) |" in text
    assert "| 32 | Quail | 0 | — | 1 | 0 of 1 (0.0 %) | 0 of 1 (0.0 %) |" in text
    assert f"| {FORGET} | Quail | 1 | 1 | 0 | 0 |" in text  # the broken format
    assert "| known | 32 | 1 | 1 of 1 (100.0 %) |" in text
    assert "| recovery, earlier rule, partial leaks | 12 | 2 | 1 of 2 (50.0 %) |" in text
    assert text.count("| llama/some at nf4 |") == 2  # the false pass and the false fail that are not borderline


def _result(label: Label, outcome: str, earlier: str, *, items: int = FORGET, is_borderline: bool = False) -> Result:
    from tests.validity.earlier_rule import EarlierVerdict

    truth = Truth(label, is_borderline, 0.0, 0.0, 0.0, 0.0, "", 100.0, 100.0)
    known = {"verbmem_forget": Interval(0.0, 10.0, 5.0)}
    return Result(CASE, items, "nf4", truth, outcome, (), EarlierVerdict(earlier), known, {})


def test_truth_set_has_what_it_promises() -> None:
    cases = [case for group in GROUPS for case in cases_of(group)]
    assert len(cases) >= 60
    assert len({case.group.architecture for case in cases}) >= 4
    assert len({case.key for case in cases}) == len(cases)
    assert {case.items for case in cases} == {FORGET, FEW}
