"""Show how many items are back, what is known by every metric, and its score on every arm.

Each metric has a line of figures and, if there is room, a line of plots. Widths are fixed, so nothing jumps while
numbers arrive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import Score
from quail_audit.schema.report import FULL, arm_at
from quail_audit.tui.live.run import POINTS, KnownSoFar, LiveRun
from quail_audit.tui.theme import palette
from quail_audit.tui.words.items_back import TONE_MARKS, headline
from quail_audit.tui.words.known import Figure, figure_of, has_say, short_title

TITLE_COLUMNS = 13
WIDE_ARM, NARROW_ARM, TIGHT_ARM = 12, 7, 6  # columns of an arm, with and without its interval
LEAST_GAUGE, LARGEST_GAUGE = 5, 30  # cells
LABEL_COLUMNS = 17  # of "100 % [59, 121] ✗"
FULL_COLUMNS = 8
GAUGE_END_PERCENT = 110.0  # a little beyond 100 %, so that an overshoot shows
LEAST_HEIGHT_WITH_PLOTS = 14  # lines
LEFT_BARS, RIGHT_BARS = (0, 0x40, 0x44, 0x46, 0x47), (0, 0x80, 0xA0, 0xB0, 0xB8)  # braille, by height
SURE, MEASURED, POSSIBLE = "█▓░"  # cells of a gauge: below the range, in it below the figure, in it above
LIMIT = "┊"
_SHORT = {"original": "orig.", "unlearned": "unl.", "retrain": "retr."}


@dataclass(frozen=True)
class _Layout:
    """The parts that fit.

    Attributes:
        back: columns of how many are back.
        gauge_cells: 0 if there is no room for a gauge.
        columns: of each arm that is shown.
        has_plots: whether metrics have a second line.
    """

    back: int
    gauge_cells: int
    columns: dict[str, int]
    has_plots: bool


class ForgettingPanel(VerticalScroll, can_focus=True):
    """How many items are back, what is known, and scores as they come."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Known: of what there was to forget, the share that the rounded model knows; back: items over half known.",
        "On the gauge █ is sure, ▓ is measured, ░ is not excluded (95 %); ┊ is the limit. Retain rows: what is kept.",
        "Known in full was never forgotten. Dim rows don't decide. ~ is so far; a plot's bars are samples, in order.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("enter", "screen.samples", "Samples", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        self._scores = Static()
        super().__init__(self._scores, id=id)
        self._lines = -1
        self._shown: tuple[LiveRun, str] | None = None
        self.border_title = "Forgetting"

    def show(self, run: LiveRun, scheme: str) -> None:
        """Draw what is known now."""
        self._shown = (run, scheme)
        layout = self._layout(run, scheme)
        so_far = _so_far(run, scheme)
        text = _headings(layout, palette.muted_style(self.app))
        for metric in run.metrics():
            text.append_text(self._metric(run, scheme, metric, so_far.get(metric), layout))
        if not run.metrics():
            text = Text(_nothing(run), style=palette.muted_style(self.app))
        lines = text.plain.count("\n")
        self._scores.update(text, layout=lines != self._lines)
        self._lines = lines
        self.border_title = self._title(run, scheme, so_far)
        self.border_subtitle = self._progress(run)

    def on_resize(self) -> None:
        if self._shown is not None:  # the size may have changed since it was last drawn
            self.show(*self._shown)

    def _title(self, run: LiveRun, scheme: str, so_far: Mapping[str, KnownSoFar]) -> str | Text:
        """Return how many items are back, which a reader sees first, or the panel's name until that is known."""
        found = headline(run.state.knowledge.get(scheme, {}), so_far)
        if found is None:
            return f"Forgetting at {printable(scheme)}" if scheme else "Forgetting"
        words = " ".join(part for part in (TONE_MARKS[found.tone], found.text) if part)
        colour = "accent" if found.tone == "open" else f"verdict-{found.tone}"
        return Text.assemble((words, palette.style(self.app, colour, bold=True)), f" ── at {printable(scheme)}")

    def _layout(self, run: LiveRun, scheme: str) -> _Layout:
        region = self.scrollable_content_region
        width = max(40, region.width - 1)
        has_plots = region.height >= LEAST_HEIGHT_WITH_PLOTS
        most = max(run.state.data.samples.values(), default=0) if run.state.data is not None else 0
        back = len(f"~{max(10, most)} of {max(10, most)}")
        arms, rounded = run.arms(scheme), arm_at("unlearned", scheme)
        pair = arms[:4]
        least = tuple(arm for arm in (f"original/{FULL}", rounded) if arm in arms)  # known in full tells of the others
        columns: dict[str, int] = {}
        for columns in (
            dict.fromkeys(arms, WIDE_ARM),
            dict.fromkeys(pair, WIDE_ARM),
            dict.fromkeys(arms, NARROW_ARM) | ({rounded: WIDE_ARM} if rounded in arms else {}),
            dict.fromkeys(arms, NARROW_ARM),
            dict.fromkeys(pair, NARROW_ARM),
            dict.fromkeys(least, NARROW_ARM),
            dict.fromkeys(least, TIGHT_ARM),
            dict.fromkeys(least[-1:], NARROW_ARM),
            {},
        ):
            cells = width - TITLE_COLUMNS - back - 2 - LABEL_COLUMNS - FULL_COLUMNS - sum(columns.values())
            if cells >= LEAST_GAUGE:
                return _Layout(back, min(LARGEST_GAUGE, cells), columns, has_plots and bool(columns))
        return _Layout(back, 0, {}, has_plots=False)

    def _metric(self, run: LiveRun, scheme: str, metric: str, so_far: KnownSoFar | None, layout: _Layout) -> Text:
        says = has_say(metric)
        muted = palette.muted_style(self.app)
        found = figure_of(run, scheme, metric, so_far)
        line = Text(no_wrap=True)
        line.append(f"{printable(short_title(metric), limit=TITLE_COLUMNS):<{TITLE_COLUMNS}}", "" if says else muted)
        line.append(f"{found.count:>{layout.back}} ", style=self._style(found) if found.is_back else muted)
        if layout.gauge_cells:
            line.append_text(self._gauge(found, layout.gauge_cells))
        label = found.label if len(found.label) <= LABEL_COLUMNS else "".join(found.label.rsplit(" ", 1))
        line.append(f" {label:<{LABEL_COLUMNS}}", style=self._style(found))
        line.append(f"{found.full:>{FULL_COLUMNS}}", style=self._style(found) if found.is_full_bad else muted)
        for arm, columns in layout.columns.items():
            line.append_text(self._score(run, metric, arm, columns, says=says))
        line.append("\n")
        if layout.has_plots and says:
            line.append_text(self._plots(run, metric, layout))
        return line

    def _plots(self, run: LiveRun, metric: str, layout: _Layout) -> Text:
        """Draw a plot under each arm's figure, all plots of a metric to one scale."""
        before = TITLE_COLUMNS + layout.back + 2 + layout.gauge_cells + LABEL_COLUMNS + FULL_COLUMNS
        line = Text(" " * before, no_wrap=True)
        scores = {arm: run.samples[metric, arm].scores for arm in layout.columns if (metric, arm) in run.samples}
        for number, (arm, columns) in enumerate(layout.columns.items(), start=1):
            bars = plot(scores.get(arm, ()), min(9, columns - 1), POINTS)
            line.append(f"{bars:>{columns}}", style=palette.style(self.app, f"plot-{number}"))
        return line.append("\n")

    def _score(self, run: LiveRun, metric: str, arm: str, columns: int, *, says: bool) -> Text:
        score = run.state.scores.get(metric, {}).get(arm)
        figure = wording.mean_with_interval if columns == WIDE_ARM else wording.mean_text
        muted = palette.muted_style(self.app)
        if score is not None:
            shown = figure(score, metric)
            if len(shown) >= columns:  # a hundred below zero, as PrivLeak may be
                shown = f"{score.mean:.0f}"
            return Text(f"{shown:>{columns}}", style=Style(bold=True) if says else muted)
        running = run.state.running.get((arm, metric))
        if running is None or not wording.is_mean_of_samples(metric):
            return Text(f"{wording.UNKNOWN:>{columns}}", style=muted)
        half = running.half_width
        so_far = Score(mean=running.mean, low=running.mean - (half or 0), high=running.mean + (half or 0), samples=1)
        shown = wording.mean_text(so_far, metric) if half is None else figure(so_far, metric)
        return Text(f"{'~' + shown:>{columns}}", style=muted)

    def _gauge(self, found: Figure, cells: int) -> Text:
        text, muted, style = Text(), palette.muted_style(self.app), self._style(found)
        if found.percent is None:
            return Text(" " * cells)
        drawn = gauge(found.percent, found.low, found.high, cells)
        limit = None if found.limit_percent is None else gauge_cell(found.limit_percent, cells)
        for place, cell in enumerate(drawn):
            if place == limit:
                text.append(LIMIT, style=palette.style(self.app, "accent", bold=True))
            else:
                text.append(cell, style=muted if cell == "·" else style)
        return text

    def _style(self, found: Figure) -> Style:
        colour = "muted" if found.tone == "open" else f"verdict-{found.tone}"
        return palette.style(self.app, colour, bold=found.tone != "open")

    def _progress(self, run: LiveRun) -> str:
        plan = run.state.plan
        running = [arm for arm, report in run.state.arms.items() if report.elapsed_s is None]
        if plan is None or not running or run.state.end is not None:
            return ""
        return f"{running[-1]}: {run.state.samples_done.get(running[-1], 0)} / {plan.samples_per_arm} samples"


def gauge_cell(percent: float, cells: int) -> int:
    """Return where a percentage ends on a gauge of so many cells; anything above 0 fills at least one."""
    share = min(1.0, max(0.0, percent) / GAUGE_END_PERCENT)
    return 0 if percent <= 0 else max(1, round(share * cells))


def gauge(percent: float, low: float, high: float, cells: int) -> str:
    """Draw a percentage with its range, each part to where it ends."""
    sure, measured, possible = (gauge_cell(end, cells) for end in (min(low, percent), percent, high))
    drawn = SURE * sure + MEASURED * (measured - sure) + POSSIBLE * (possible - measured)
    return f"{drawn:·<{cells}}"


def plot(scores: Sequence[float], cells: int, top: float) -> str:
    """Draw bars in braille, two to a cell, of means of equal runs of scores; blank without scores.

    Args:
        scores: in the order of the samples.
        cells: columns of the screen.
        top: the score of the highest bar; the lowest is 0.
    """
    count = min(2 * cells, len(scores))
    edges = [len(scores) * place // max(1, count) for place in range(count + 1)]
    means = [sum(scores[a:b]) / (b - a) for a, b in pairwise(edges)]
    heights = [max(1, min(4, math.ceil(4 * mean / top))) if top > 0 else 1 for mean in means]
    heights += [0] * (2 * cells - count)
    return "".join(chr(0x2800 + LEFT_BARS[a] + RIGHT_BARS[b]) for a, b in zip(heights[::2], heights[1::2], strict=True))


def _so_far(run: LiveRun, scheme: str) -> dict[str, KnownSoFar]:
    """Return what is known so far by each metric that is not through."""
    if run.state.verdict is not None:
        return {}
    known = run.state.knowledge.get(scheme, {})
    found = {metric: run.so_far(metric, scheme) for metric in run.metrics() if metric not in known}
    return {metric: each for metric, each in found.items() if each is not None}


def _headings(layout: _Layout, style: Style) -> Text:
    """Return two lines: the checkpoints, each over its arms, and the names of columns."""
    gauge_columns = layout.gauge_cells + 1 + LABEL_COLUMNS
    first = " " * (TITLE_COLUMNS + layout.back + 1 + gauge_columns) + f"{'known in':>{FULL_COLUMNS}}"
    second = " " * TITLE_COLUMNS + f"{'back':>{layout.back}} {f'known   {LIMIT} limit':<{gauge_columns}}"
    second += f"{FULL:>{FULL_COLUMNS}}"
    for checkpoint, group in groupby(layout.columns.items(), key=lambda item: item[0].partition("/")[0]):
        arms = list(group)
        columns = sum(width for _, width in arms)
        first += f"{printable(_fitting(checkpoint, columns - 1)):>{columns}}"
        second += "".join(f"{printable(arm.partition('/')[2] or FULL)[: width - 1]:>{width}}" for arm, width in arms)
    return Text(no_wrap=True).append(f"{first}\n{second}\n", style=style)


def _fitting(checkpoint: str, columns: int) -> str:
    return checkpoint if len(checkpoint) <= columns else _SHORT.get(checkpoint, checkpoint)[:columns]


def _nothing(run: LiveRun) -> str:
    request = run.request
    if request is not None and request.data is None:
        return (
            "Only the weights are measured, as no data folder was given.\n"
            "With one, this panel shows which forgotten answers come back."
        )
    return "Scores appear here as soon as the first samples are answered."
