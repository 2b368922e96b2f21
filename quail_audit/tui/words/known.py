"""Put what is known or kept by a metric at a scheme into the figures of a line."""

from __future__ import annotations

from dataclasses import dataclass

from quail_audit.reports import wording
from quail_audit.schema.figures import Estimate, Kept, Knowledge
from quail_audit.schema.policy import Limits
from quail_audit.schema.report import arm_at
from quail_audit.tui.live.run import KnownSoFar, LiveRun
from quail_audit.tui.words.items_back import TONE_MARKS, Tone, tone_of
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, retain_metrics, scores_truth

WARNING = "!"
_SCORES = {
    "_probability_forget": " probability",
    "_extraction_strength_forget": " extraction",
}


@dataclass(frozen=True)
class Figure:
    """The figures of one metric at one scheme.

    Attributes:
        tone: how bad it is.
        count: "24 of 24" items are back; "n 24" if they are not counted.
        is_back: count says how many are back.
        percent, low, high: known or kept, with its range; None if there is none.
        label: the same in words: "100 % [59, 121] ✗".
        limit_percent: where the limit is; None if there is none.
        full: what is known in full precision, or how many items are still there: "−14 %", "2 of 24".
        is_full_bad: that is what the verdict is about.
    """

    tone: Tone = "open"
    count: str = ""
    is_back: bool = False
    percent: float | None = None
    low: float = 0.0
    high: float = 0.0
    label: str = ""
    limit_percent: float | None = None
    full: str = ""
    is_full_bad: bool = False


def short_title(metric: str) -> str:
    """Return the title of a metric's line: VerbMem, and below it probability and extraction."""
    title = wording.metric_title(metric)
    if scores_truth(metric) and metric in DECIDING_METRICS:  # below the line of its items' answers
        return next(word for part, word in _SCORES.items() if metric.endswith(part))
    if metric in DECIDING_METRICS:
        return title.removesuffix(", forget")
    return (title.replace(", retain", " kept") if is_of_utility(metric) else title).replace(", ", " ")


def is_of_utility(metric: str) -> bool:
    """Return whether a metric tells what is kept."""
    return bool(retain_metrics((metric,)))


def has_say(metric: str) -> bool:
    """Return whether a metric has a say in the verdict: it decides, or it tells what is kept."""
    return metric in DECIDING_METRICS or is_of_utility(metric)


def figure_of(run: LiveRun, scheme: str, metric: str, so_far: KnownSoFar | None) -> Figure:
    """Return what is known or kept, or how much of it so far."""
    limits = run.limits.metric_limits(scheme, metric)
    knowledge = run.state.knowledge.get(scheme, {}).get(metric)
    kept = run.state.utility.get(scheme, {}).get(metric)
    if knowledge is not None:
        return _known(knowledge, limits)
    if kept is not None:
        return _kept(kept, limits)
    if so_far is not None:
        known = so_far.percent
        return Figure(
            count=f"~{so_far.back} of {so_far.items}",
            is_back=True,
            percent=known,
            low=known or 0.0,
            high=known or 0.0,
            label="" if known is None else f"~{percent_text(known)}",
            limit_percent=limits.max_known_percent,
        )
    score = run.state.scores.get(metric, {}).get(arm_at("unlearned", scheme))
    return Figure(count="" if score is None else f"n {score.samples}")


def percent_text(value: float) -> str:
    """Write a share in percent: "−14 %"."""
    return f"{_number(value)} %"


def range_text(found: Estimate) -> str:
    """Write a share with its range: "100 % [59, 121]"."""
    return f"{percent_text(found.percent)} [{_number(found.low)}, {_number(found.high)}]"


def _known(knowledge: Knowledge, limits: Limits) -> Figure:
    known, back = knowledge.known, knowledge.back
    tone, mark, limit = tone_of(knowledge), TONE_MARKS[tone_of(knowledge)], limits.max_known_percent
    if knowledge.outcome == "reported only":
        own = limits.max_membership_percent
        limit = limit if own is None else own
        if known is not None and known.low > limit:
            tone, mark = ("inconclusive", WARNING) if own is None else ("fail", TONE_MARKS["fail"])
    residual, kept = knowledge.residual, knowledge.kept
    full = "" if kept is None else f"{kept.count} of {kept.items}"
    count = "" if known is None else f"n {known.items}"
    return Figure(
        tone=tone,
        count=count if back is None else f"{back.count} of {back.items}",
        is_back=back is not None,
        percent=None if known is None else known.percent,
        low=0.0 if known is None else known.low,
        high=0.0 if known is None else known.high,
        label=knowledge.outcome if known is None else f"{range_text(known)} {mark}".rstrip(),
        limit_percent=limit,
        full=full if residual is None else percent_text(residual.percent),
        is_full_bad=knowledge.outcome == "not forgotten",
    )


def _kept(kept: Kept, limits: Limits) -> Figure:
    found, least = kept.utility, limits.min_utility_percent
    if kept.format_percent is not None and kept.format_percent < limits.min_format_percent:
        return Figure(count="" if found is None else f"n {found.items}", label="broken format")
    if found is None:
        return Figure(label="too little to tell")
    tone: Tone = "fail" if found.standing == "within" else "inconclusive" if found.percent < least else "pass"
    return Figure(
        tone=tone,
        count=f"n {found.items}",
        percent=found.percent,
        low=found.low,
        high=found.high,
        label=f"{range_text(found)} {TONE_MARKS[tone]}",
        limit_percent=least,
    )


def _number(value: float) -> str:
    return str(round(value)).replace("-", "−")
