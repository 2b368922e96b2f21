"""Say what was found of forgetting: the line beside the verdict and the rows of its tables, alike in every format.

Cells are not printable yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from quail_audit.reports import wording
from quail_audit.schema.figures import Estimate, ItemsBack, Kept, Knowledge, KnowledgeOutcome
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, MEMBERSHIP_METRICS, items_word, retain_metrics
from quail_audit.verdict.standings import SchemeStanding, scheme_standings, worst

KNOWLEDGE_HEADINGS = ("metric", "back", "known [95 %]", "in full precision", "came back", "format leaves", "outcome")
UTILITY_HEADINGS = ("utility", "kept [95 %]", "items", "format leaves")
MEMBERSHIP_HEADINGS = ("membership", "told again [95 %]", "items")
NOT_TOLD = "not told"
NOT_TOLD_NOTE = "not told: without a reference (--retrain) it cannot be told what was not forgotten in full precision"
OLDER_NOTE = (
    "measured by an older Quail: known is what it called recovery, from the larger of the reference and the unlearned "
    "model in full precision, with a bootstrap interval; no items were counted"
)
_TITLES_IN_FULL: Mapping[str, str] = {
    f"{kind}_{score}_forget": f"{title} {words}, forget"
    for kind, title in (("verbmem", "VerbMem"), ("knowmem", "KnowMem"))
    for score, words in (
        ("probability", "probability"),
        ("extraction_strength", "extraction"),
        ("exact_memorization", "exact"),
    )
}
_UNTOLD: Mapping[KnowledgeOutcome, str] = {
    "swapped": "the unlearned checkpoint knows more than the original: are the two swapped?",
    "uninformative": "forgetting cannot be told: the original knew hardly more than the floor",
    "no floor": "forgetting cannot be told: there is no floor",
    "no rounded arm": "forgetting cannot be told: the unlearned checkpoint was not given as deployed",
}


@dataclass(frozen=True)
class KnowledgeRow:
    """Knowledge by one metric at one scheme, in words.

    Attributes:
        metric: its title, without the set.
        known: with its interval, and with the number of items if none were counted as back.
        residual: what is known in full precision, and how many items are kept there.
        came_back: what rounding brought back.
        format_leaves: of what the original knew.
    """

    metric: str
    back: str
    known: str
    residual: str
    came_back: str
    format_leaves: str
    outcome: str

    @property
    def cells(self) -> tuple[str, ...]:
        return tuple(vars(self).values())


def headline(report: Report) -> str:
    """Return the first thing to read beside the verdict: "4 of 32 texts are back at nf4 (VerbMem)".

    It is about the worst scheme and metric; empty if nothing was measured.
    """
    name = worst(report)
    each = next((found for found in scheme_standings(report) if found.scheme == name), None)
    if each is None:
        return ""
    return scheme_headline(each, among=len(report.schemes))


def scheme_headline(each: SchemeStanding, *, among: int = 1) -> str:
    """Return the headline of one scheme, the worst among so many."""
    found = each.knowledge
    at = f"at {each.scheme}" if among == 1 else f"at {each.scheme}, the worst of {among} formats"
    if found is None or each.metric is None:
        if each.layers_at_risk is None:
            return ""
        number = f"{each.layers_at_risk} of {each.layers}" if each.layers_at_risk else "no"
        word = "layers are" if each.layers_at_risk else "layer is"
        return f"{number} {word} at risk {at}; forgetting was not measured"
    if found.outcome in _UNTOLD:
        return _UNTOLD[found.outcome]
    if found.outcome == "broken format":
        return f"forgetting cannot be told at {each.scheme}: the format breaks the model"
    title, items = forget_title(each.metric), items_word(each.metric)
    if found.outcome == "not forgotten":
        if found.kept is not None and found.kept.count:
            return f"{_count(found.kept)} {items} are still known in full precision ({title})"
        share = "" if found.residual is None else f"{round(found.residual.percent)} % of "
        number = "" if found.residual is None else f", n = {found.residual.items}"
        return f"{share}what there was to forget is still known in full precision ({title}{number})"
    if found.back is not None:
        return f"{_count(found.back)} {items} are back {at} ({title})"
    if found.known is None:
        return f"forgetting cannot be told {at}"
    number = f", n = {found.known.items}" if found.known.items else ""
    return f"{round(found.known.percent)} % of what there was to forget is known {at} ({title}{number})"


def population_line(report: Report) -> str:
    """Return of how many items in all those that were asked are, if that was said."""
    asked = [
        f"{forget_title(metric)} {report.samples[metric]} of {number}"
        for metric, number in report.population.items()
        if metric in report.samples
    ]
    return f"asked of all that there is to forget: {', '.join(asked)}" if asked else ""


def full_title(metric: str) -> str:
    """Return a metric's title with no word cut short, where there is room for it."""
    return _TITLES_IN_FULL.get(metric, wording.metric_title(metric))


def forget_title(metric: str) -> str:
    """Return the full title of a forget metric without the set, which every row of its table has."""
    return full_title(metric).removesuffix(", forget")


def metrics_in_order(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return metrics as a reader needs them: those that decide, those of utility, membership, and the rest."""
    found = tuple(metrics)
    retain = retain_metrics(found)
    first = [metric for metric in (*DECIDING_METRICS, *retain, *MEMBERSHIP_METRICS) if metric in found]
    return tuple(dict.fromkeys([*first, *found]))


def knowledge_rows(measured: SchemeReport, *, is_narrow: bool = False) -> list[KnowledgeRow]:
    """Return a row for each metric that decides.

    Args:
        measured: what was found at a scheme.
        is_narrow: leave out the interval in full precision.
    """
    return [
        KnowledgeRow(
            metric=forget_title(metric),
            back=_count(found.back),
            known=_known(found),
            residual=_residual(found, is_narrow=is_narrow),
            came_back=wording.percent_text(found.came_back_percent),
            format_leaves=wording.percent_text(found.format_percent),
            outcome=found.outcome,
        )
        for metric, found in _knowledge(measured)
        if found.outcome != "reported only"
    ]


def utility_rows(measured: SchemeReport) -> list[tuple[str, ...]]:
    """Return a row for each retain metric, as UTILITY_HEADINGS."""
    return [
        (
            full_title(metric),
            estimate_text(kept.utility),
            wording.UNKNOWN if kept.utility is None else str(kept.utility.items),
            wording.percent_text(kept.format_percent),
        )
        for metric, kept in measured.utility.items()
    ]


def membership_rows(measured: SchemeReport) -> list[tuple[str, ...]]:
    """Return a row for each metric of membership, as MEMBERSHIP_HEADINGS: the way back to the original."""
    return [
        (full_title(metric), estimate_text(found.known), _items(found.known))
        for metric, found in _knowledge(measured)
        if found.outcome == "reported only"
    ]


def has_untold_residual(measured: SchemeReport) -> bool:
    """Return whether a row says NOT_TOLD."""
    return any(row.residual.startswith(NOT_TOLD) for row in knowledge_rows(measured, is_narrow=True))


def utility_kept(each: SchemeStanding, measured: SchemeReport) -> str:
    """Return what is kept of the retain metric that keeps least, with its number of items: "97 %, n = 48"."""
    known = [kept.utility for kept in measured.utility.values() if kept.utility is not None]
    if not known:
        return wording.percent_text(each.utility_percent)
    least = min(known, key=lambda kept: kept.percent)
    return f"{round(least.percent)} %, n = {least.items}"


def knowledge_in_brief(found: Knowledge | None) -> str:
    """Return what is back and known: "24 of 24 back, 100 % [59, 121] known"; or why neither can be told."""
    back, known = wording.back_text(found), wording.knowledge_text(found)
    return f"{back} back, {known} known" if back and "%" in known else known


def back_and_known(found: Knowledge | None) -> str:
    """Return the same for a place that says what it is: "24 of 24, 100 % [59, 121]"."""
    back, known = wording.back_text(found), wording.knowledge_text(found)
    return f"{back}, {known}" if back and known else known or wording.UNKNOWN


def kept_in_brief(found: Kept | None) -> str:
    """Return what is kept of a retain metric, with its interval and number of items."""
    if found is None or found.utility is None:
        return wording.UNKNOWN
    return f"{estimate_text(found.utility)}, n = {found.utility.items}"


def estimate_text(found: Estimate | None) -> str:
    """Return a share with its interval."""
    return wording.UNKNOWN if found is None else f"{round(found.percent)} % [{round(found.low)}, {round(found.high)}]"


def _knowledge(measured: SchemeReport) -> Iterator[tuple[str, Knowledge]]:
    for metric in metrics_in_order(measured.knowledge):
        yield metric, measured.knowledge[metric]


def _count(found: ItemsBack | None) -> str:
    return wording.UNKNOWN if found is None else f"{found.count} of {found.items}"


def _items(found: Estimate | None) -> str:
    return wording.UNKNOWN if found is None or not found.items else str(found.items)


def _known(found: Knowledge) -> str:
    shown = estimate_text(found.known)
    return f"{shown}, n = {found.known.items}" if found.known and found.known.items and not found.back else shown


def _residual(found: Knowledge, *, is_narrow: bool) -> str:
    """Return what is known in full precision; nothing of older reports, which did not tell it apart."""
    if found.residual is None:
        share = NOT_TOLD if found.kept is not None else wording.UNKNOWN
    else:
        share = wording.percent_text(found.residual.percent) if is_narrow else estimate_text(found.residual)
    return share if found.kept is None else f"{share}, {_count(found.kept)}"
