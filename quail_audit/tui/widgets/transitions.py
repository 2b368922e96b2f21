"""Show where the codes went, as a table: original level down, unlearned level across.

Cells count weights. Levels ascend, from the most negative weights to the most positive. On the diagonal a weight kept
its code.
"""

from __future__ import annotations

import math
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from quail_audit.schema.figures import LayerDetail
from quail_audit.tui.theme import palette
from quail_audit.tui.theme.files import contrast, mix, readable
from quail_audit.tui.words.layers import kept_codes, levels_of, percent, sentence_case

LABEL_COLUMNS = 4
NARROWEST_CELL, WIDEST_CELL = 2, 6
NUMBERED_CELL = 5  # from here on a short count fits
TALLEST_CELL = 3  # lines
HEADING_LINES = 2  # the sentence, and the levels across
HEAT_STEPS = 8


class Transitions(ScrollView, can_focus=True):
    """A square of counts; the cursor is one cell, whose count is shown."""

    DEFAULT_CLASSES = "panel"
    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Down: the level a weight has in the original; across: its level in the unlearned checkpoint; ascending.",
        "On the diagonal ╲ a weight kept its code, so the deployed model has not changed there; off it, it moved.",
        "Colour grows with the count; a small cell shows how many digits it has, and the border all of it.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Up", show=False),
        Binding("down,j", "move(1, 0)", "Down", show=False),
        Binding("left,h", "move(0, -1)", "Left", show=False),
        Binding("right,l", "move(0, 1)", "Right", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._detail: LayerDetail | None = None
        self._sentence = ""
        self._most_moved = (0, 0)
        self._highest = 0
        self._cursor: tuple[int, int] | None = None  # None: nobody has moved it yet
        self.border_title = "Codes: original ↓ unlearned →"

    def show(self, detail: LayerDetail | None, sentence: str = "") -> None:
        """Draw a layer's counts, or a sentence on why there are none."""
        self._detail, self._sentence = detail, sentence
        # Counted once for a layer: every cell needs them each time it is drawn.
        moved = [(self._count(*cell), cell) for cell in self._cells() if cell[0] != cell[1]]
        self._most_moved = max(moved, default=(0, (0, 0)), key=lambda item: item[0])[1]
        self._highest = max(detail.transitions, default=0) if detail is not None else 0
        self._resize()
        self._say_cell()
        self.refresh()

    @property
    def _levels(self) -> int:
        return levels_of(self._detail) if self._detail is not None else 0

    @property
    def cursor(self) -> tuple[int, int]:
        """Original and unlearned level of the cursor's cell; at first the one with the most moved weights."""
        if self._cursor is not None and max(self._cursor) < self._levels:
            return self._cursor
        return self._most_moved

    def _cells(self) -> list[tuple[int, int]]:
        return [(row, column) for row in range(self._levels) for column in range(self._levels)]

    def _count(self, row: int, column: int) -> int:
        assert self._detail is not None  # noqa: S101 - it has levels
        return self._detail.transitions[row * self._levels + column]

    def _say_cell(self) -> None:
        if self._detail is None or not self._levels:
            self.border_subtitle = ""
            return
        row, column = self.cursor
        count = self._count(row, column)
        share = percent(count / max(1, sum(self._detail.transitions)))
        self.border_subtitle = f"level {row} → {column}: {count:,} weights, {share}"

    def on_resize(self) -> None:
        self._resize()

    def _resize(self) -> None:
        lines = self._levels * self._cell_lines + HEADING_LINES
        self.virtual_size = Size(LABEL_COLUMNS + self._cell_columns * self._levels, lines)

    @property
    def _cell_columns(self) -> int:
        room = (self.scrollable_content_region.width - LABEL_COLUMNS) // max(1, self._levels)
        return max(NARROWEST_CELL, min(WIDEST_CELL, room))

    @property
    def _cell_lines(self) -> int:
        room = (self.scrollable_content_region.height - HEADING_LINES) // max(1, self._levels)
        return max(1, min(TALLEST_CELL, (self._cell_columns + 1) // 2, room))

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        left = self.scroll_offset.x
        if y == 0:
            segments, left = [Segment(self._caption(), palette.style(self.app, "foreground", bold=True))], 0
        elif self._detail is None:
            segments = []
        elif y == 1:
            levels = "".join(f"{level:^{self._cell_columns}}" for level in range(self._levels))
            segments = [Segment(" " * LABEL_COLUMNS + levels, palette.muted_style(self.app))]
        else:
            segments = self._line(y - HEADING_LINES + self.scroll_offset.y)
        strip = Strip(segments).crop(left, left + width)
        return strip.adjust_cell_length(width, self.rich_style).apply_style(self.rich_style)

    def _caption(self) -> str:
        if self._detail is None:
            return self._sentence
        kept = kept_codes(self._detail)
        return (
            "No weight changed."
            if kept is None
            else sentence_case(f"{percent(kept)} of changed weights kept their code.")
        )

    def _line(self, line: int) -> list[Segment]:
        row, part = divmod(line, self._cell_lines)
        if row >= self._levels:
            return []
        is_labelled = part == (self._cell_lines - 1) // 2
        label = f"{row if is_labelled else '':>{LABEL_COLUMNS - 1}} "
        cells = [self._cell(row, column, is_labelled) for column in range(self._levels)]
        return [Segment(label, palette.muted_style(self.app)), *cells]

    def _cell(self, row: int, column: int, is_labelled: bool) -> Segment:
        width, count = self._cell_columns, self._count(row, column)
        on_diagonal = row == column
        if not is_labelled:
            text = ""
        elif not count:
            text = "╲" if on_diagonal else "·"
        elif width >= NUMBERED_CELL:
            text = short_count(count)
        else:
            text = f"{'╲' if on_diagonal else ''}{len(str(count))}"
        style = self._heat_style(count, on_diagonal=on_diagonal)
        if (row, column) == self.cursor:
            style += Style(reverse=True, bold=True) if self.has_focus else Style(underline=True, bold=True)
        return Segment(f"{text:>{width - 1}} " if width >= NUMBERED_CELL else f"{text:^{width}}", style)

    def _heat(self, count: int) -> float:
        """Return a count's place between 1 and the highest, by logarithm; 0 to 1."""
        return math.log(count) / math.log(self._highest) if self._highest > 1 else 1.0

    def _heat_style(self, count: int, *, on_diagonal: bool) -> Style:
        """Return a cool colour, as moved codes are no risk by themselves; the diagonal has its own."""
        theme = self.app.theme_variables
        if not count:
            return palette.muted_style(self.app)
        share = 0.15 + 0.6 * round(self._heat(count) * HEAT_STEPS) / HEAT_STEPS
        ground = mix(theme["background"], theme["muted" if on_diagonal else "primary"], share)
        ends = theme["foreground"], theme["background"]
        return Style(color=readable(max(ends, key=lambda end: contrast(end, ground)), ground), bgcolor=ground)

    def action_move(self, rows: int, columns: int) -> None:
        if self._detail is None:
            return
        row, column = self.cursor
        last = self._levels - 1
        self._put_cursor(min(max(0, row + rows), last), min(max(0, column + columns), last))

    def _put_cursor(self, row: int, column: int) -> None:
        self._cursor = (row, column)
        lines, columns = self._cell_lines, self._cell_columns
        left = LABEL_COLUMNS + column * columns
        self.scroll_to_region(Region(left, row * lines, columns, lines + HEADING_LINES), animate=False)
        self._say_cell()
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self._detail is None or offset.y < HEADING_LINES:
            return
        row = (offset.y - HEADING_LINES + self.scroll_offset.y) // self._cell_lines
        column = (offset.x + self.scroll_offset.x - LABEL_COLUMNS) // self._cell_columns
        if 0 <= row < self._levels and 0 <= column < self._levels:
            self._put_cursor(row, column)


def short_count(count: int) -> str:
    """Write a count in four characters: 999, 1.2k, 45k, 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(count)
