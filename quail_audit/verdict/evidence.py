"""Weigh the items' scores of an audit: what is known, what is back, and how sure that is.

Pure: the scores of a report and a policy's limits go in, figures with their standings come out. docs/metrics.md has the
definitions with an example by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quail_audit.schema.figures import Estimate, ItemsBack, Kept, Knowledge, KnowledgeOutcome, Standing
from quail_audit.schema.policy import Limits
from quail_audit.schema.report import FULL, Report
from quail_audit.verdict.confidence import ENOUGH, F64, Share, holm, items_needed
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, retain_metrics
from quail_audit.verdict.roles import Arms, arms_at
from quail_audit.verdict.weighed import Weighed

LEAST_TO_FORGET = 0.1  # of an item's score: less above the floor cannot come back
BACK_SHARE = 0.5  # an item is back above this share of the way from the floor to the original
WHOLE_SHARE, LEAST_WHOLE = 0.9, 0.5  # without a reference: an item kept so far, of an original score at least so high
LEAST_UTILITY = 0.05  # a mean score; below it, a share of it means nothing
_EQUAL = 1e-9  # scores that differ by less are the same


def weigh(report: Report, limits: Limits) -> Weighed:
    """Weigh the items' scores of every scheme that was measured, by a policy's limits."""
    schemes = [scheme for scheme, found in report.schemes.items() if found.failure is None]
    cases = [
        _Case.of(scheme, metric, report, arms, limits)
        for metric in DECIDING_METRICS
        if (scores := report.items.get(metric))
        for scheme in schemes
        if (arms := arms_at(scores, scheme)) is not None
    ]
    utility = {scheme: dict(_utility(report, scheme, limits)) for scheme in schemes if retain_metrics(report.items)}
    return Weighed(_knowledge(cases), {scheme: found for scheme, found in utility.items() if found})


@dataclass(frozen=True, eq=False)
class _Question:
    """A share that is compared with a limit."""

    share: Share
    limit: float  # 0 to 1
    above: float  # the evidence that it is above, as a logarithm
    within: float

    @classmethod
    def of(cls, share: Share, limit_percent: float) -> _Question:
        limit = limit_percent / 100.0
        return cls(share, limit, float(share.log_evidence_above(limit)), float(share.log_evidence_within(limit)))

    @property
    def items(self) -> int:
        return int(self.share.deployed.shape[-1])

    def standing(self, needed_above: float, needed_within: float) -> Standing:
        if self.above >= needed_above:
            return "above"
        return "within" if self.within >= needed_within else "undecided"

    def interval(self, needed_above: float, needed_within: float) -> tuple[float, float]:
        """Return the shares in percent that are not excluded."""
        low, high = self.share.interval(needed_above, needed_within)
        return 100.0 * float(low), 100.0 * float(high)

    def estimate(self, needed_above: float = ENOUGH, needed_within: float = ENOUGH) -> Estimate:
        low, high = self.interval(needed_above, needed_within)
        return Estimate(
            percent=100.0 * float(self.share.estimate),
            low=low,
            high=high,
            items=self.items,
            standing=self.standing(needed_above, needed_within),
        )

    def back(self, needed_above: float, needed_within: float) -> ItemsBack:
        low, high = self.interval(needed_above, needed_within)
        return ItemsBack(
            count=round(float(self.share.deployed.sum())),
            items=self.items,
            low=max(0.0, low),
            high=min(100.0, high),
            standing=self.standing(needed_above, needed_within),
        )

    def items_needed(self, needed_above: float, needed_within: float) -> int | None:
        """Return how many items would decide, on the side on which the estimate lies."""
        if float(self.share.estimate) <= self.limit:
            return items_needed(self.items, self.within, needed_within)
        return items_needed(self.items, self.above, needed_above)


@dataclass(frozen=True, eq=False)
class _Case:
    """One metric at one scheme, with the questions that are asked of it.

    Attributes:
        outcome: what it is whatever the questions say; None if they decide.
        full: in full precision: the residual and the items kept; the same at every scheme.
        deployed: as deployed: what is known and what is back.
    """

    scheme: str
    metric: str
    outcome: KnowledgeOutcome | None
    full: Mapping[str, _Question]
    deployed: Mapping[str, _Question]
    format_percent: float | None
    floor: float | None
    floor_arm: str | None

    @classmethod
    def of(cls, scheme: str, metric: str, report: Report, arms: Arms, limits: Limits) -> _Case:
        own = limits.metric_limits(scheme, metric)
        found = _read_scores(report.items[metric], arms)
        population = report.population.get(metric)
        points = own.informative_points / 100.0
        original, reference = found["original"], found.get("reference")
        full = found.get("unlearned", found.get("deployed"))
        assert full is not None  # noqa: S101 - arms_at asked for one of them
        floor = reference if reference is not None else found.get("unlearned")
        made: dict[str, _Question] = {}
        deployed: dict[str, _Question] = {}
        lowest = original.mean() - (reference.mean() if reference is not None else 0.0)
        outcome: KnowledgeOutcome | None = None
        format_percent = None
        if _is_swapped(full, original, reference, points):
            outcome = "swapped"
        elif lowest < points:
            outcome = "uninformative"
        else:
            if reference is None:
                kept = ((full >= WHOLE_SHARE * original) & (original >= LEAST_WHOLE)).astype(np.float64)
                made["kept"] = _Question.of(Share(kept, population=population), own.max_back_percent)
            elif "unlearned" in found:
                share = Share(full, original, reference, population)
                kept = _is_back(full, original, reference)
                made["residual"] = _Question.of(share, own.max_known_percent)
                made["kept"] = _Question.of(Share(kept, population=population), own.max_back_percent)
            if floor is None:
                outcome = "no floor"
            elif "deployed" not in found:
                outcome = "no rounded arm"
            elif original.mean() - floor.mean() < points:
                outcome = "uninformative"
            else:
                if (rounded := found.get("rounded")) is not None:
                    format_percent = 100.0 * float((rounded - floor).mean() / (original - floor).mean())
                if format_percent is not None and format_percent < own.min_format_percent:
                    outcome = "broken format"
                share = Share(found["deployed"], original, floor, population)
                back = _is_back(found["deployed"], original, floor)
                deployed["known"] = _Question.of(share, own.max_known_percent)
                deployed["back"] = _Question.of(Share(back, population=population), own.max_back_percent)
        mean = None if floor is None else 100.0 * float(floor.mean())
        return cls(scheme, metric, outcome, made, deployed, format_percent, mean, arms.floor)

    @property
    def decides(self) -> bool:
        """Return whether what is known as deployed has a say."""
        return self.outcome is None and bool(self.deployed)

    @property
    def within(self) -> float:
        """Return the evidence that the deployed checkpoint is within all limits."""
        asked = list(self.deployed.values())
        if "residual" not in self.full:  # without a reference, what was kept whole lies below the floor
            asked += self.full.values()
        return min(question.within for question in asked)


def _read_scores(scores: Mapping[str, tuple[float, ...]], arms: Arms) -> dict[str, F64]:
    """Return role -> scores from 0 to 1 of the items that all arms were asked."""
    named = {role: name for role, name in arms.named().items() if name in scores}
    items = min(len(scores[name]) for name in named.values())
    return {role: np.array(scores[name][:items], dtype=np.float64) / 100.0 for role, name in named.items()}


def _is_back(scores: F64, original: F64, floor: F64) -> F64:
    """Return 1 for each item that is back: above the middle between the floor and an original with more than it."""
    to_forget = original - floor
    is_back = (scores - floor > BACK_SHARE * to_forget + _EQUAL) & (to_forget >= LEAST_TO_FORGET - _EQUAL)
    return is_back.astype(np.float64)


def _is_swapped(full: F64, original: F64, reference: F64 | None, points: float) -> bool:
    above = full.mean() - original.mean()
    return bool(above >= points and (reference is None or full.mean() - reference.mean() >= points))


def _knowledge(cases: Iterable[_Case]) -> dict[str, dict[str, Knowledge]]:
    """Judge all questions together.

    Holm's method holds over all metrics and schemes that something is above its limit, and over the schemes that all of
    a scheme is within; inside one scheme every metric has to hold, which needs no correction.
    """
    cases = list(cases)
    above: dict[tuple[str, str, str], float] = {}
    for case in cases:
        above |= {(FULL, case.metric, name): each.above for name, each in case.full.items()}
        if case.decides:
            above |= {(case.scheme, case.metric, name): each.above for name, each in case.deployed.items()}
    needed_above = dict(zip(above, holm(list(above.values())), strict=True))
    within: dict[str, float] = {}
    for case in cases:
        if case.decides:
            within[case.scheme] = min(within.get(case.scheme, np.inf), case.within)
    needed_within = dict(zip(within, holm(list(within.values())), strict=True))
    found: dict[str, dict[str, Knowledge]] = {}
    for case in cases:
        enough = needed_within.get(case.scheme, ENOUGH)
        found.setdefault(case.scheme, {})[case.metric] = _judge(case, needed_above, enough)
    return found


def _judge(case: _Case, needed_above: Mapping[tuple[str, str, str], float], enough: float) -> Knowledge:
    def needed(scheme: str, name: str) -> float:
        return needed_above.get((scheme, case.metric, name), ENOUGH)

    def standings(scheme: str, questions: Mapping[str, _Question]) -> dict[str, Standing]:
        return {name: each.standing(needed(scheme, name), enough) for name, each in questions.items()}

    full, deployed = standings(FULL, case.full), standings(case.scheme, case.deployed)
    decided: list[Standing] = [*deployed.values(), *(() if "residual" in full else full.values())]
    outcome: KnowledgeOutcome
    if "above" in full.values():
        outcome = "not forgotten"
    elif case.outcome is not None:
        outcome = case.outcome
    elif "above" in deployed.values():
        outcome = "comes back"
    else:
        outcome = "undecided" if "undecided" in decided else "holds"
    told: dict[str, int | None] = {}
    if outcome == "undecided":
        open_questions = [
            (scheme, name, each)
            for scheme, questions in ((FULL, case.full), (case.scheme, case.deployed))
            for name, each in questions.items()
            if name != "residual" and (scheme != FULL or "residual" not in full)
            if each.standing(needed(scheme, name), enough) == "undecided"
        ]
        counts = [each.items_needed(needed(scheme, name), enough) for scheme, name, each in open_questions]
        told["items_needed"] = None if None in counts else max(count for count in counts if count is not None)
    residual, kept = case.full.get("residual"), case.full.get("kept")
    known, back = case.deployed.get("known"), case.deployed.get("back")
    return Knowledge(
        outcome=outcome,
        known=known.estimate(needed(case.scheme, "known"), enough) if known else None,
        residual=residual.estimate(needed(FULL, "residual"), enough) if residual else None,
        back=back.back(needed(case.scheme, "back"), enough) if back else None,
        kept=kept.back(needed(FULL, "kept"), enough) if kept else None,
        format_percent=case.format_percent,
        floor=case.floor,
        floor_arm=case.floor_arm,
        **told,
    )


def _utility(report: Report, scheme: str, limits: Limits) -> Iterator[tuple[str, Kept]]:
    """Yield what is kept of each retain metric at a scheme.

    The original at the same scheme is the measure, so that the unlearning is not charged for the format's damage; if it
    was not measured there, the original as it is given.
    """
    for metric in retain_metrics(report.items):
        arms = arms_at(report.items[metric], scheme)
        if arms is None:
            continue
        found = _read_scores(report.items[metric], arms)
        original = found.get("rounded", found["original"])
        kept = Kept()
        if found["original"].mean() >= LEAST_UTILITY:
            utility = None
            if "deployed" in found and original.mean() >= LEAST_UTILITY:
                own = limits.metric_limits(scheme, metric)
                share = Share(found["deployed"], original, np.zeros_like(original))
                utility = _Question.of(share, own.min_utility_percent).estimate()
            percent = 100.0 * float(original.mean() / found["original"].mean())
            kept = Kept(utility=utility, format_percent=percent)
        yield metric, kept
