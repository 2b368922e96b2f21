"""Show a histogram of update / bucket width over a layer's changed weights.

There are always 31 bins on a log2 axis, so in the 35 columns of a small screen a column for each bin fits with the
marks at half a bucket and a whole one; textual-plot's margins alone take ten. And a bin can show its count.
"""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.widget import Widget

from quail_audit.schema.figures import RATIO_EDGES, LayerDetail
from quail_audit.tui.theme import palette
from quail_audit.tui.words.layers import HALF, WHOLE, below_half_in_words, bin_in_words, fraction, percent

BINS = len(RATIO_EDGES) + 1
MARKED = (HALF, WHOLE)  # edges with a line of their own through the bars
LABELLED = (*MARKED, *(RATIO_EDGES.index(2.0**power) for power in (-10, -7, -4, 3)), RATIO_EDGES.index(4.0))
EIGHTHS = " ▁▂▃▄▅▆▇█"
GUTTER = 7  # columns of the tallest bar's share, if there is room
FEWEST_LINES = 2


class Histogram(Widget, can_focus=True):
    """Bars: how many weights moved by how much of their bucket."""

    DEFAULT_CLASSES = "panel"
    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each bar counts changed weights by how far they moved, in widths of their own bucket; each step doubles.",
        "Left of ½ an update crosses into another bucket only by luck; right of 1 it always does.",
        "← and → go through the bars and show their counts below.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Bar to the left", show=False),
        Binding("right", "move(1)", "Bar to the right", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._detail: LayerDetail | None = None
        self._sentence = ""
        self._bin: int | None = None
        self.border_title = "Update / bucket width"

    def show(self, detail: LayerDetail | None, sentence: str = "") -> None:
        """Draw a layer's counts, or a sentence on why there are none."""
        self._detail, self._sentence = detail, sentence
        self._say_bin()
        self.refresh()

    def _say_bin(self) -> None:
        counts = self._detail.ratio_counts if self._detail is not None else ()
        if self._detail is None or self._bin is None:
            self.border_subtitle = f"{sum(counts):,} changed weights" if counts else ""
            return
        total, count = max(1, sum(counts)), counts[self._bin]
        self.border_subtitle = f"{bin_in_words(self._bin)} of a bucket: {count:,} weights, {percent(count / total)}"

    def action_move(self, step: int) -> None:
        if self._detail is None:
            return
        counts = self._detail.ratio_counts
        start = counts.index(max(counts)) - step if self._bin is None else self._bin
        self._bin = min(max(0, start + step), BINS - 1)
        self._say_bin()
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        place = self._bin_at(offset.x) if offset is not None else None
        if place is not None and self._detail is not None:
            self._bin = place
            self._say_bin()
            self.refresh()

    def render(self) -> Text:
        detail = self._detail
        if detail is None:
            return Text(self._sentence, style=palette.muted_style(self.app))
        width, height = self.size.width, self.size.height
        sentence = Text(below_half_in_words(detail), style=palette.style(self.app, "foreground", bold=True))
        wrapped = sentence.wrap(self.app.console, max(1, width))
        lines = max(FEWEST_LINES, height - len(wrapped) - 2)
        text = Text("\n").join(wrapped)
        text.append("\n")
        for line in range(lines - 1, -1, -1):
            text.append_text(self._line(detail.ratio_counts, line, lines))
            text.append("\n")
        text.append_text(self._axis())
        text.no_wrap, text.overflow = True, "crop"
        return text

    @property
    def _gutter(self) -> int:
        return GUTTER if self.size.width >= BINS + len(MARKED) + GUTTER else 0

    @property
    def _bar_columns(self) -> int:
        return max(1, (self.size.width - self._gutter - len(MARKED)) // BINS)

    def _line(self, counts: tuple[int, ...], line: int, lines: int) -> Text:
        highest = max(*counts, 1)
        muted = palette.muted_style(self.app)
        label = f"{percent(highest / max(1, sum(counts)))[-GUTTER + 1 :]:>{GUTTER - 1}} " if line == lines - 1 else ""
        text = Text(f"{label:>{self._gutter}}"[: self._gutter], style=muted)
        for place, count in enumerate(counts):
            eighths = max(1, round(8 * lines * count / highest)) if count else 0
            cell = EIGHTHS[min(8, max(0, eighths - 8 * line))]
            text.append(cell * self._bar_columns, style=self._style(place))
            if place in MARKED:
                text.append("┊", style=palette.style(self.app, "accent", bold=True))
        return text

    def _style(self, place: int) -> Style:
        if place == self._bin and self.has_focus:
            return palette.style(self.app, "accent", bold=True)
        # in the colours of an erased and of a carried update
        variable = "state-erased" if place <= HALF else "state-drowned" if place <= WHOLE else "state-carried"
        return palette.style(self.app, variable)

    def _column_of(self, edge: int) -> int:
        """Return where an edge is on screen: left of its marker, or between two bars."""
        return self._gutter + (edge + 1) * self._bar_columns + sum(marked < edge for marked in MARKED)

    def _bin_at(self, column: int) -> int | None:
        for place in range(BINS):
            end = self._column_of(place) if place < len(RATIO_EDGES) else self.size.width
            if self._gutter <= column < end:
                return place
        return None

    def _axis(self) -> Text:
        """Draw a rule with ticks and their labels: the two marks first, then as many others as fit."""
        width = self._column_of(len(RATIO_EDGES) - 1) + self._bar_columns
        rule, labels = [" "] * self._gutter + ["─"] * (width - self._gutter), [" "] * (width + 2)
        for edge in LABELLED:
            column = self._column_of(edge)
            name = fraction(RATIO_EDGES[edge])
            start = min(column - len(name) // 2, len(labels) - len(name))
            taken = labels[max(0, start - 1) : start + len(name) + 1]
            if start < 0 or any(character != " " for character in taken):
                continue
            rule[column] = "┴"
            labels[start : start + len(name)] = name
        return Text(f"{''.join(rule)}\n{''.join(labels)}", style=palette.muted_style(self.app))
