"""Show two runs side by side: the items that are back, what is known, and scores, and which is better, in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import ItemsBack, Knowledge, Score
from quail_audit.schema.policy import Limits
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.theme import palette
from quail_audit.tui.words.known import percent_text, range_text
from quail_audit.verdict.comparison import (
    CHANGE_MARKS,
    CHECKPOINT_THAT_CHANGES,
    Change,
    KnowledgeChange,
    SchemeComparison,
    ScoreChange,
)

TITLE_COLUMNS, ARM_COLUMNS, FIGURE_COLUMNS, DIFFERENCE_COLUMNS = 16, 15, 16, 9
NARROW_FIGURE_COLUMNS = 11
WIDTH_WITH_INTERVALS = TITLE_COLUMNS + ARM_COLUMNS + 2 * FIGURE_COLUMNS + DIFFERENCE_COLUMNS + 13


class ScoreChanges(VerticalScroll, can_focus=True):
    """Scores before and after. Forget metrics are better low, retain metrics high; of losses it is the other way."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "▲ better and ▼ worse: the 95 % intervals do not overlap. = same: they do, so no difference can be told.",
        "Forget metrics are better low and retain metrics high; for NLL it is the other way round. ≠ is neither.",
        "back: items that are back at this scheme; known: the share of what there was to forget. Both have a limit.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes="panel")
        self._show_again: Callable[[], None] | None = None
        self.border_title = "Scores"

    def compose(self) -> ComposeResult:
        yield Static(id="score-changes")

    def show(self, found: SchemeComparison, before: LiveRun, after: LiveRun, *, every_arm: bool, scheme: str) -> None:
        """Draw what is known of a scheme. Limits are those of the run after."""
        self._show_again = partial(self.show, found, before, after, every_arm=every_arm, scheme=scheme)
        self._has_intervals = self.scrollable_content_region.width > WIDTH_WITH_INTERVALS
        self._columns = FIGURE_COLUMNS if self._has_intervals else NARROW_FIGURE_COLUMNS
        self.border_subtitle = "v: every arm" if not every_arm else "v: only what changes"
        text = self._headings()
        knowledge = {change.metric: change for change in found.knowledge}
        known = dict.fromkeys([*knowledge, *(change.metric for change in found.scores)])
        for metric in [metric for metric in before.metrics() if metric in known] or known:
            title = wording.metric_title(metric)
            if metric in knowledge:
                limits = after.limits.metric_limits(scheme, metric)
                text.append_text(self._knowledge(title, knowledge[metric], limits))
                title = ""
            for change in found.scores:
                if change.metric == metric and (every_arm or change.arm.startswith(f"{CHECKPOINT_THAT_CHANGES}/")):
                    text.append_text(self._score(title, change, before, after))
                    title = ""
        if not known:
            text = Text("Neither run has scores: both were given no data.", style=palette.muted_style(self.app))
        self.query_one("#score-changes", Static).update(text)

    def on_resize(self) -> None:
        if self._show_again is not None:  # the size may have changed since it was last drawn
            self._show_again()

    def _headings(self) -> Text:
        columns = self._columns
        heading = f"{'':{TITLE_COLUMNS + ARM_COLUMNS}}{'before':>{columns}}   {'after':>{columns}}"
        text = Text(no_wrap=True, overflow="ellipsis")
        return text.append(f"{heading}{'change':>{DIFFERENCE_COLUMNS}}\n", style=palette.muted_style(self.app))

    def _line(
        self, title: str, what: str, before: Text, after: Text, difference: str, standing: Change, aside: str = ""
    ) -> Text:
        muted = palette.muted_style(self.app)
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{printable(title, limit=TITLE_COLUMNS - 1):<{TITLE_COLUMNS}}")
        line.append(f"{printable(what, limit=ARM_COLUMNS - 1):<{ARM_COLUMNS}}", style=muted)
        line.append_text(self._right(before)).append(" → ", style=muted).append_text(self._right(after))
        line.append(f"{difference:>{DIFFERENCE_COLUMNS}}  ")
        words = "" if standing == "unknown" else f"{CHANGE_MARKS[standing]} {standing}"
        line.append(words, style=palette.change_style(self.app, standing))
        if aside and self._has_intervals:
            line.append(f"  {aside}", style=muted)
        return line.append("\n")

    def _right(self, figure: Text) -> Text:
        return Text(" " * max(0, self._columns - figure.cell_len)).append_text(figure)

    def _score(self, title: str, change: ScoreChange, before: LiveRun, after: LiveRun) -> Text:
        digits = 2 if change.metric.startswith("nll") else 1
        difference = "" if change.difference is None else signed_number(change.difference, digits)
        return self._line(
            title,
            change.arm,
            self._figure(change.before, change, before),
            self._figure(change.after, change, after),
            difference,
            change.standing,
        )

    def _figure(self, score: Score | None, change: ScoreChange, run: LiveRun) -> Text:
        """Return a score, or the mean so far while samples are being answered."""
        if score is not None:
            shown = wording.mean_with_interval if self._has_intervals else wording.mean_text
            return Text(shown(score, change.metric), style="bold")
        so_far = run.state.running.get((change.arm, change.metric))
        if so_far is None or not wording.is_mean_of_samples(change.metric):
            return Text(wording.UNKNOWN, style=palette.muted_style(self.app))
        digits = 2 if change.metric.startswith("nll") else 1
        return Text(f"~{so_far.mean:.{digits}f}", style=palette.muted_style(self.app))

    def _knowledge(self, title: str, change: KnowledgeChange, limits: Limits) -> Text:
        """Return how many items are back, if they were counted, and what is known."""
        before, after = change.before, change.after
        backs = [None if each is None else each.back for each in (before, after)]
        text = Text()
        if any(backs):
            one, other = backs
            difference = "" if one is None or other is None else signed_number(other.count - one.count, 0)
            shown = self._back(one), self._back(other)
            limit = f"limit {limits.max_back_percent:g} %"
            text.append_text(self._line(title, "back", *shown, difference, _back_change(one, other), limit))
            title = ""
        known, later = (None if each is None else each.known for each in (before, after))
        difference = ""
        if known is not None and later is not None:
            difference = f"{signed_number(later.percent - known.percent, 0)} %"
        is_judged = after is None or after.outcome != "reported only"
        limit = f"limit {limits.max_known_percent:g} %" if is_judged else ""
        shown = self._percent(before), self._percent(after)
        return text.append_text(self._line(title, "known", *shown, difference, change.standing, limit))

    def _back(self, back: ItemsBack | None) -> Text:
        if back is None:
            return Text(wording.UNKNOWN, style=palette.muted_style(self.app))
        return Text(f"{back.count} of {back.items}", style="bold")

    def _percent(self, knowledge: Knowledge | None) -> Text:
        if knowledge is None:
            return Text(wording.UNKNOWN, style=palette.muted_style(self.app))
        known = knowledge.known
        if known is None:
            return Text(knowledge.outcome[: self._columns], style=palette.muted_style(self.app))
        if not self._has_intervals:
            return Text(percent_text(known.percent), style="bold")
        return Text(range_text(known), style="bold")


def signed_number(value: float, digits: int) -> str:
    """Write a number with its sign, unless it rounds to 0."""
    shown = f"{value:+.{digits}f}"
    return shown.replace("-", "−") if float(shown) else f"{0:.{digits}f}"


def _back_change(before: ItemsBack | None, after: ItemsBack | None) -> Change:
    """Return whether more or fewer items are back, if the ranges of their shares tell."""
    if before is None or after is None:
        return "unknown"
    if before.low <= after.high and after.low <= before.high:
        return "same"
    return "better" if after.high < before.low else "worse"
