"""Hold each audit's verdicts to the truth: one result for each case, number of items and scheme."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quail_audit.schema.figures import Estimate, ItemsBack, Knowledge, SchemeSummary
from quail_audit.verdict.checks import Judgement
from tests.validity.audits import judge_first, report_of, schemes_of
from tests.validity.earlier_rule import EarlierVerdict, earlier_verdict
from tests.validity.evaluator import AS_GIVEN
from tests.validity.telling import FULL, Teller
from tests.validity.truth_set import FEW, FORGET, Case
from tests.validity.truths import Truth, truth_of

Judged = Literal["right", "false pass", "false fail", "inconclusive"]


@dataclass(frozen=True)
class Interval:
    """A share that an audit of some items estimates: the range it gives, and the share of all items, in percent."""

    low: float
    high: float
    whole: float | None

    @property
    def covers(self) -> bool:
        return self.whole is not None and self.low <= self.whole <= self.high


@dataclass(frozen=True)
class Result:
    """One verdict held to its truth.

    Attributes:
        case: the checkpoint.
        items: forget items that were asked.
        scheme: the scheme.
        truth: what is true of the pair.
        outcome: Quail's verdict at the scheme.
        reasons: codes of its reasons.
        earlier: the verdict of the earlier rule on the same items.
        known, back: metric -> interval, of each metric that has one.
        summary: the layers' figures at the scheme.
    """

    case: Case
    items: int
    scheme: str
    truth: Truth
    outcome: str
    reasons: tuple[str, ...]
    earlier: EarlierVerdict
    known: dict[str, Interval]
    back: dict[str, Interval]
    summary: SchemeSummary | None = None

    @property
    def judged(self) -> Judged:
        return judge(self.outcome, self.truth)

    @property
    def earlier_judged(self) -> Judged:
        return judge(self.earlier.outcome, self.truth)

    @property
    def name(self) -> str:
        return f"{self.case.key} at {self.scheme}"


def judge(outcome: str, truth: Truth) -> Judged:
    """Hold a verdict to the truth: leaks and useless models must fail, clean ones pass, broken formats do neither."""
    if outcome == "inconclusive":
        return "right" if truth.label == "breaks" else "inconclusive"
    if outcome == "pass":
        return "right" if truth.label == "clean" else "false pass"
    return "right" if truth.label in ("leaks", "useless") else "false fail"


def results_of(teller: Teller, case: Case, numbers: Sequence[int]) -> Iterator[Result]:
    """Yield the results of a case, at each number of items and each scheme.

    Args:
        teller: the teller of the case's group.
        case: the case; one with few items is judged on those only.
        numbers: numbers of items.
    """
    report = report_of(teller.folder, case)
    whole = judge_first(report, case.items)
    for items in (FEW,) if case.items == FEW else numbers:
        judged = whole if items == case.items else judge_first(report, items)
        for scheme in schemes_of(case):
            verdict = judged.schemes[scheme]
            yield Result(
                case,
                items,
                scheme,
                truth_of(teller, case, scheme),
                verdict.outcome,
                tuple(dict.fromkeys(reason.code for reason in verdict.reasons)),
                _earlier(teller, case, scheme, items),
                dict(_intervals(judged, whole, scheme, "known")),
                dict(_intervals(judged, whole, scheme, "back")),
                report.schemes[scheme].summary,
            )


def earlier_interval(teller: Teller, case: Case, scheme: str, items: int) -> Interval | None:
    """Return the earlier rule's interval on so many items; None if it has none."""
    found = _earlier(teller, case, scheme, items)
    if found.low is None or found.high is None:
        return None
    return Interval(found.low, found.high, _earlier(teller, case, scheme, FORGET).percent)


def _earlier(teller: Teller, case: Case, scheme: str, items: int) -> EarlierVerdict:
    places = ((case.original, FULL), (case.name, FULL), (case.name, scheme), ("reference", FULL))
    arms = [teller.tell(name, at).forget.values(AS_GIVEN, "answer")[:items] for name, at in places]
    return earlier_verdict(*arms)


def _intervals(judged: Judgement, whole: Judgement, scheme: str, figure: str) -> Iterator[tuple[str, Interval]]:
    """Yield metric -> the interval of a figure, beside the figure of all items."""
    of_all = _knowledge(whole, scheme)
    for metric, knowledge in _knowledge(judged, scheme).items():
        found = getattr(knowledge, figure)
        if found is not None and metric in of_all:
            yield metric, Interval(found.low, found.high, _percent(getattr(of_all[metric], figure)))


def _knowledge(judged: Judgement, scheme: str) -> Mapping[str, Knowledge]:
    assert judged.weighed is not None
    return judged.weighed.knowledge.get(scheme, {})


def _percent(figure: Estimate | ItemsBack | None) -> float | None:
    if figure is None:
        return None
    return figure.percent if isinstance(figure, Estimate) else 100.0 * figure.count / figure.items


def folder_of(root: Path, case: Case) -> Path:
    return root / case.group.architecture
