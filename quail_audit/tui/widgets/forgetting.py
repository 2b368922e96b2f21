"""Show every metric on every arm, with interval and plot, and what came back.

Each metric has a line of figures and, if there is room, a line of plots. Widths are fixed, so nothing jumps while
numbers arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.reports import wording
from quail_audit.schema.figures import Knowledge, Score
from quail_audit.schema.report import FULL, arm_at
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.theme import palette

TITLE_COLUMNS = 16
WIDE_ARM, NARROW_ARM = 12, 7  # columns of an arm, with and without its interval
LEAST_GAUGE, LARGEST_GAUGE = 8, 30  # cells
GAUGE_LABEL_COLUMNS = 10
GAUGE_END_PERCENT = 110.0  # a little beyond 100 %, so that an overshoot shows
LEAST_HEIGHT_WITH_PLOTS = 14  # lines
LEFT_BARS, RIGHT_BARS = (0, 0x40, 0x44, 0x46, 0x47), (0, 0x80, 0xA0, 0xB0, 0xB8)  # braille, by height
POINTS = 100.0  # the highest score of a metric, except for losses


@dataclass(frozen=True)
class _Layout:
    """The parts that fit.

    Attributes:
        columns: of each arm that is shown.
        gauge_cells: 0 if there is no room for a gauge.
        has_plots: whether each metric has a second line.
    """

    columns: dict[str, int]
    gauge_cells: int
    has_plots: bool


class ForgettingPanel(VerticalScroll, can_focus=True):
    """Scores as they come, and the recovery of every forget metric."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Forget metrics: high on the original, low on the unlearned. If unlearned/nf4 is high again, it came back.",
        "The gauge is what is known: 0 % is what may be known, 100 % is what the original knows; ┊ is the limit.",
        "~ means so far; ± is the 95 % interval; in the small plot each bar stands for a few samples, in order.",
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
        text = _headings(layout, palette.muted_style(self.app))
        for metric in run.metrics():
            text.append_text(self._metric(run, scheme, metric, layout))
        if not run.metrics():
            text = Text(_nothing(run), style=palette.muted_style(self.app))
        lines = text.plain.count("\n")
        self._scores.update(text, layout=lines != self._lines)
        self._lines = lines
        self.border_title = f"Forgetting at {scheme}" if scheme else "Forgetting"
        self.border_subtitle = self._progress(run)

    def on_resize(self) -> None:
        if self._shown is not None:  # the size may have changed since it was last drawn
            self.show(*self._shown)

    def _layout(self, run: LiveRun, scheme: str) -> _Layout:
        region = self.scrollable_content_region
        width = max(40, region.width - 1)
        has_plots = region.height >= LEAST_HEIGHT_WITH_PLOTS
        arms = run.arms(scheme)
        pair, rounded = arms[:4], arm_at("unlearned", scheme)
        for columns in (
            dict.fromkeys(arms, WIDE_ARM),
            dict.fromkeys(pair, WIDE_ARM),
            dict.fromkeys(arms, NARROW_ARM) | ({rounded: WIDE_ARM} if rounded in arms else {}),
            dict.fromkeys(pair, NARROW_ARM) | ({rounded: WIDE_ARM} if rounded in pair else {}),
            dict.fromkeys(pair, NARROW_ARM),
        ):
            cells = width - TITLE_COLUMNS - sum(columns.values()) - 2 - GAUGE_LABEL_COLUMNS
            if cells >= LEAST_GAUGE:
                return _Layout(columns, min(LARGEST_GAUGE, cells), has_plots)
        return _Layout(dict.fromkeys(pair, NARROW_ARM), 0, has_plots)

    def _metric(self, run: LiveRun, scheme: str, metric: str, layout: _Layout) -> Text:
        line = Text(f"{wording.metric_title(metric)[: TITLE_COLUMNS - 1]:<{TITLE_COLUMNS}}", no_wrap=True)
        for arm, columns in layout.columns.items():
            line.append_text(self._figure(run, metric, arm, columns))
        if layout.gauge_cells:
            line.append("  ")
            line.append_text(self._gauge(run, scheme, metric, layout.gauge_cells))
        line.append("\n")
        if layout.has_plots:
            line.append_text(self._plots(run, metric, layout))
        return line

    def _plots(self, run: LiveRun, metric: str, layout: _Layout) -> Text:
        """Draw a plot under each arm's figure, all plots of a metric to one scale."""
        line = Text(" " * TITLE_COLUMNS, no_wrap=True)
        scores = {arm: run.samples[metric, arm].scores for arm in layout.columns if (metric, arm) in run.samples}
        top = max((max(found, default=0.0) for found in scores.values()), default=0.0)
        top = top if metric.startswith("nll") else POINTS
        for number, (arm, columns) in enumerate(layout.columns.items(), start=1):
            bars = plot(scores.get(arm, ()), min(9, columns - 1), top)
            line.append(f"{bars:>{columns}}", style=palette.style(self.app, f"plot-{number}"))
        return line.append("\n")

    def _figure(self, run: LiveRun, metric: str, arm: str, columns: int) -> Text:
        score = run.state.scores.get(metric, {}).get(arm)
        figure = wording.mean_with_interval if columns == WIDE_ARM else wording.mean_text
        if score is not None:
            return Text(f"{figure(score, metric):>{columns}}", style=Style(bold=True))
        running = run.state.running.get((arm, metric))
        muted = palette.muted_style(self.app)
        if running is None or not wording.is_mean_of_samples(metric):
            return Text(f"{wording.UNKNOWN:>{columns}}", style=muted)
        half = running.half_width
        so_far = Score(mean=running.mean, low=running.mean - (half or 0), high=running.mean + (half or 0), samples=1)
        shown = wording.mean_text(so_far, metric) if half is None else figure(so_far, metric)
        return Text(f"{'~' + shown:>{columns}}", style=muted)

    def _gauge(self, run: LiveRun, scheme: str, metric: str, cells: int) -> Text:
        knowledge = run.state.knowledge.get(scheme, {}).get(metric)
        limit_percent = run.limits.metric_limits(scheme, metric).max_known_percent
        if knowledge is None:
            percent = run.running_known_percent(metric, scheme)
            if percent is None:
                return Text("")
            return self._bar(percent, limit_percent, f"~{percent:.0f} %", palette.muted_style(self.app), cells)
        if knowledge.known is None:
            return Text(knowledge.outcome, style=palette.muted_style(self.app))
        percent = knowledge.known.percent
        label = f"{percent:.0f} % {self._mark(knowledge)}"
        return self._bar(percent, limit_percent, label, self._style(knowledge), cells)

    def _bar(self, percent: float, limit_percent: float, label: str, style: Style, cells: int) -> Text:
        limit, filled = gauge_cell(limit_percent, cells), gauge_cell(percent, cells)
        muted = palette.muted_style(self.app)
        text = Text()
        for place in range(cells):
            if place == limit:
                text.append("┊", style=palette.style(self.app, "accent", bold=True))
            else:
                text.append("█" if place < filled else "·", style=style if place < filled else muted)
        text.append(f" {label}", style=style)
        return text

    def _mark(self, knowledge: Knowledge) -> str:
        marks = {"not forgotten": "✗", "comes back": "✗", "holds": "✓", "undecided": "?"}
        return marks.get(knowledge.outcome, "")

    def _style(self, knowledge: Knowledge) -> Style:
        outcomes = {"comes back": "verdict-fail", "not forgotten": "verdict-fail", "holds": "verdict-pass"}
        outcomes["undecided"] = "verdict-inconclusive"
        return palette.style(self.app, outcomes.get(knowledge.outcome, "muted"), bold=True)

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


def _headings(layout: _Layout, style: Style) -> Text:
    """Return two lines: the checkpoints, each over its arms, and the arms' precisions."""
    first = second = " " * TITLE_COLUMNS
    for checkpoint, group in groupby(layout.columns.items(), key=lambda item: item[0].partition("/")[0]):
        arms = list(group)
        columns = sum(width for _, width in arms)
        first += f"{checkpoint[: columns - 1]:>{columns}}"
        second += "".join(f"{arm.partition('/')[2] or FULL:>{width}}" for arm, width in arms)
    if layout.gauge_cells:
        second += "  came back"
    return Text(no_wrap=True).append(f"{first}\n{second}\n", style=style)


def _nothing(run: LiveRun) -> str:
    request = run.request
    if request is not None and request.data is None:
        return (
            "Only the weights are measured, as no data folder was given.\n"
            "With one, this panel shows which forgotten answers come back."
        )
    return "Scores appear here as soon as the first samples are answered."
