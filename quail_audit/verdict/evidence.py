"""Weigh the items' scores of an audit: what is known, what is back, and how sure that is.

Pure: the scores of a report and a policy's limits go in, figures with their standings come out. docs/metrics.md has the
definitions with an example by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
    schemes = _measured_schemes(report)
    utility = {scheme: dict(_utility(report, scheme, limits)) for scheme in schemes if retain_metrics(report.items)}
    return Weighed(_knowledge(_cases(report, limits)), {scheme: found for scheme, found in utility.items() if found})


def outcomes(report: Report, limits: Limits) -> dict[str, dict[str, KnowledgeOutcome]]:
    """Return scheme -> deciding metric -> the outcome that `weigh` has, without its figures, which take longer."""
    cases = _cases(report, limits)
    judged = _evidence(cases)
    found: dict[str, dict[str, KnowledgeOutcome]] = {}
    for case in cases:
        own = {key: judged[case.scheme, key] for key in case.asked}
        found.setdefault(case.scheme, {})[case.metric] = _outcome(case, own)
    return found


def _measured_schemes(report: Report) -> list[str]:
    return [scheme for scheme, found in report.schemes.items() if found.failure is None]


def _cases(report: Report, limits: Limits) -> list[_Case]:
    return [
        _Case.of(scheme, metric, report, arms, limits)
        for metric in DECIDING_METRICS
        if (scores := report.items.get(metric))
        for scheme in _measured_schemes(report)
        if (arms := arms_at(scores, scheme)) is not None
    ]


@dataclass(frozen=True, eq=False)
class _Question:
    """A share of items that is compared with a limit, from 0 to 1; see Share."""

    limit: float
    deployed: F64
    original: F64 | None = None
    floor: F64 | None = None
    population: int | None = None

    @property
    def items(self) -> int:
        return len(self.deployed)

    @property
    def share(self) -> float:
        return float(Share(self.deployed, self.original, self.floor).estimate)


@dataclass(frozen=True, eq=False)
class _Evidence:
    """The evidence on a question, as logarithms.

    Attributes:
        above, within: that the share is above its limit, or within it.
        needed_above, needed_within: what decides, so that all questions together hold at 95 %.
    """

    question: _Question
    above: float
    within: float
    needed_above: float = ENOUGH
    needed_within: float = ENOUGH

    @property
    def standing(self) -> Standing:
        if self.above >= self.needed_above:
            return "above"
        return "within" if self.within >= self.needed_within else "undecided"

    @property
    def items_needed(self) -> int | None:
        """How many items would decide, on the side on which the estimate lies."""
        if self.question.share <= self.question.limit:
            return items_needed(self.question.items, self.within, self.needed_within)
        return items_needed(self.question.items, self.above, self.needed_above)

    def estimate(self, low: float, high: float) -> Estimate:
        """Return it with the shares between which it lies, from 0 to 1."""
        return Estimate(
            percent=100.0 * self.question.share,
            low=100.0 * low,
            high=100.0 * high,
            items=self.question.items,
            standing=self.standing,
        )

    def back(self, low: float, high: float) -> ItemsBack:
        return ItemsBack(
            count=round(float(self.question.deployed.sum())),
            items=self.question.items,
            low=100.0 * max(0.0, low),
            high=100.0 * min(1.0, high),
            standing=self.standing,
        )


def _ask(questions: Sequence[_Question]) -> list[_Evidence]:
    """Return the evidence on each question; those on as many items are reckoned at once."""
    found: dict[int, _Evidence] = {}
    for places, share in _stacked(questions):
        limits = np.array([questions[place].limit for place in places])
        above, within = share.log_evidence_above(limits), share.log_evidence_within(limits)
        for row, place in enumerate(places):
            found[place] = _Evidence(questions[place], float(above[row]), float(within[row]))
    return [found[place] for place in range(len(questions))]


def _intervals(evidence: Sequence[_Evidence]) -> list[tuple[float, float]]:
    """Return the shares between which each question's lies, as strictly as it was decided."""
    found: dict[int, tuple[float, float]] = {}
    for places, share in _stacked([each.question for each in evidence]):
        needed = np.array([[evidence[place].needed_above, evidence[place].needed_within] for place in places])
        low, high = share.interval(needed[:, 0], needed[:, 1])
        found |= {place: (float(low[row]), float(high[row])) for row, place in enumerate(places)}
    return [found[place] for place in range(len(evidence))]


def _stacked(questions: Sequence[_Question]) -> Iterator[tuple[list[int], Share]]:
    """Yield the places of the questions on as many items, and their shares in one."""
    groups: dict[tuple[int, int | None, bool], list[int]] = {}
    for place, each in enumerate(questions):
        groups.setdefault((each.items, each.population, each.original is None), []).append(place)
    for (_, population, is_counted), places in groups.items():
        chosen = [questions[place] for place in places]
        deployed = np.stack([each.deployed for each in chosen])
        if is_counted:
            yield places, Share(deployed, population=population)
        else:
            others = ([each.original for each in chosen], [each.floor for each in chosen])
            original, floor = (np.stack([each for each in other if each is not None]) for other in others)
            yield places, Share(deployed, original, floor, population)


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
        # Full precision may have been asked more items than this scheme, and is judged by all, alike at every scheme.
        whole = _read_scores(report.items[metric], arms, ("original", "unlearned", "reference"))
        whole = whole if "unlearned" in whole else found
        first, reference = whole["original"], whole.get("reference")
        full = whole.get("unlearned", whole.get("deployed"))
        assert full is not None  # noqa: S101 - arms_at asked for one of them
        original, floor = found["original"], found.get("reference", found.get("unlearned"))
        made: dict[str, _Question] = {}
        deployed: dict[str, _Question] = {}
        lowest = first.mean() - (reference.mean() if reference is not None else 0.0)
        outcome: KnowledgeOutcome | None = None
        format_percent = None
        if _is_swapped(full, first, reference, points):
            outcome = "swapped"
        elif lowest < points:
            outcome = "uninformative"
        else:
            if reference is not None and "unlearned" in whole:
                made["residual"] = _Question(own.max_known_percent / 100.0, full, first, reference, population)
            if reference is None or "unlearned" in whole:
                kept = is_kept(full, first, reference)
                made["kept"] = _Question(own.max_back_percent / 100.0, kept, population=population)
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
                limit = own.max_known_percent / 100.0
                deployed["known"] = _Question(limit, found["deployed"], original, floor, population)
                back = is_back(found["deployed"], original, floor)
                deployed["back"] = _Question(own.max_back_percent / 100.0, back, population=population)
        mean = None if floor is None else 100.0 * float(floor.mean())
        return cls(scheme, metric, outcome, made, deployed, format_percent, mean, arms.floor)

    @property
    def decides(self) -> bool:
        """Return whether what is known as deployed has a say."""
        return self.outcome is None and bool(self.deployed)

    @property
    def asked(self) -> dict[tuple[str, str, str], _Question]:
        """Return the questions by (scheme or full, metric, name)."""
        full = {(FULL, self.metric, name): each for name, each in self.full.items()}
        return full | {(self.scheme, self.metric, name): each for name, each in self.deployed.items()}

    def is_within(self, key: tuple[str, str, str]) -> bool:
        """Return whether a question has to be within its limit for the scheme to hold.

        The deployed checkpoint counts. Without a reference, items that were kept whole lie below the floor.
        """
        return key[0] == self.scheme or "residual" not in self.full


def _read_scores(
    scores: Mapping[str, tuple[float, ...]], arms: Arms, roles: Collection[str] | None = None
) -> dict[str, F64]:
    """Return role -> scores from 0 to 1 of the items that all arms, or those of some roles, were asked."""
    given = arms.named().items()
    named = {role: name for role, name in given if name in scores and (roles is None or role in roles)}
    items = min(len(scores[name]) for name in named.values())
    return {role: np.array(scores[name][:items], dtype=np.float64) / 100.0 for role, name in named.items()}


def is_back(scores: F64, original: F64, floor: F64) -> F64:
    """Return 1 for each item that is back: above the middle between the floor and an original with more than it."""
    to_forget = original - floor
    found = (scores - floor > BACK_SHARE * to_forget + _EQUAL) & (to_forget >= LEAST_TO_FORGET - _EQUAL)
    return found.astype(np.float64)


def is_kept(full: F64, original: F64, reference: F64 | None) -> F64:
    """Return 1 for each item that was not forgotten: back in full precision, or, without a reference, kept whole."""
    if reference is not None:
        return is_back(full, original, reference)
    return ((full >= WHOLE_SHARE * original) & (original >= LEAST_WHOLE)).astype(np.float64)


def _is_swapped(full: F64, original: F64, reference: F64 | None, points: float) -> bool:
    above = full.mean() - original.mean()
    return bool(above >= points and (reference is None or full.mean() - reference.mean() >= points))


_Key = tuple[str, str, str]  # scheme or full, metric, question


def _evidence(cases: Sequence[_Case]) -> dict[tuple[str, _Key], _Evidence]:
    """Judge all questions together; return the evidence on each as it counts at each scheme.

    Holm's method holds over all metrics and schemes that something is above its limit, and over the schemes that all of
    a scheme is within; inside one scheme every metric has to hold, which needs no correction.
    """
    questions = {key: question for case in cases for key, question in case.asked.items()}
    evidence = dict(zip(questions, _ask(list(questions.values())), strict=True))
    has_say = {key for case in cases for key in case.asked if key[0] == FULL or case.decides}
    above = {key: evidence[key].above for key in questions if key in has_say}
    needed_above = dict(zip(above, holm(list(above.values())), strict=True))
    within: dict[str, float] = {}
    for case in cases:
        if case.decides:
            least = min(evidence[key].within for key in case.asked if case.is_within(key))
            within[case.scheme] = min(within.get(case.scheme, np.inf), least)
    needed_within = dict(zip(within, holm(list(within.values())), strict=True))
    return {
        (case.scheme, key): replace(
            evidence[key],
            needed_above=needed_above.get(key, ENOUGH),
            needed_within=needed_within.get(case.scheme, ENOUGH) if case.is_within(key) else ENOUGH,
        )
        for case in cases
        for key in case.asked
    }


def _knowledge(cases: Sequence[_Case]) -> dict[str, dict[str, Knowledge]]:
    judged = _evidence(cases)
    once = {(key, each.needed_within): each for (_, key), each in judged.items()}  # in full precision, of all schemes
    ends = dict(zip(once, _intervals(list(once.values())), strict=True))
    found: dict[str, dict[str, Knowledge]] = {}
    for case in cases:
        own = {key: (each := judged[case.scheme, key], ends[key, each.needed_within]) for key in case.asked}
        found.setdefault(case.scheme, {})[case.metric] = _judge(case, own)
    return found


def _undecided(case: _Case, asked: Mapping[_Key, _Evidence]) -> list[_Evidence]:
    """Return the evidence on questions that have to be within their limit, and are undecided."""
    return [found for key, found in asked.items() if case.is_within(key) and found.standing == "undecided"]


def _outcome(case: _Case, asked: Mapping[_Key, _Evidence]) -> KnowledgeOutcome:
    if any(found.standing == "above" for key, found in asked.items() if key[0] == FULL):
        return "not forgotten"
    if case.outcome is not None:
        return case.outcome
    if any(found.standing == "above" for found in asked.values()):
        return "comes back"
    return "undecided" if _undecided(case, asked) else "holds"


def _judge(case: _Case, asked: Mapping[tuple[str, str, str], tuple[_Evidence, tuple[float, float]]]) -> Knowledge:
    full = {key[2]: found for key, found in asked.items() if key[0] == FULL}
    deployed = {key[2]: found for key, found in asked.items() if key[0] != FULL}
    outcome = _outcome(case, {key: found for key, (found, _) in asked.items()})
    undecided = _undecided(case, {key: found for key, (found, _) in asked.items()})
    counts = [found.items_needed for found in undecided] if outcome == "undecided" else []
    told = [count for count in counts if count is not None]

    def figure(of: Mapping[str, tuple[_Evidence, tuple[float, float]]], name: str) -> Estimate | None:
        return of[name][0].estimate(*of[name][1]) if name in of else None

    def count(of: Mapping[str, tuple[_Evidence, tuple[float, float]]], name: str) -> ItemsBack | None:
        return of[name][0].back(*of[name][1]) if name in of else None

    return Knowledge(
        outcome=outcome,
        known=figure(deployed, "known"),
        residual=figure(full, "residual"),
        back=count(deployed, "back"),
        kept=count(full, "kept"),
        format_percent=case.format_percent,
        floor=case.floor,
        floor_arm=case.floor_arm,
        items_needed=max(told) if told and len(told) == len(counts) else None,
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
                limit = own.min_utility_percent / 100.0
                asked = _ask([_Question(limit, found["deployed"], original, np.zeros_like(original))])
                utility = asked[0].estimate(*_intervals(asked)[0])
            percent = 100.0 * float(original.mean() / found["original"].mean())
            kept = Kept(utility=utility, format_percent=percent)
        yield metric, kept
