"""Show a heat map of blocks × roles, a cell for the layers of a block with the same role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from quail_audit.reports import wording
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.report import STATES_BY_RISK, badness
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.layer_messages import LayerHighlighted, LayerOpened
from quail_audit.tui.words import layer_views
from quail_audit.tui.words.layer_views import BROUGHT_BACK, MODES, VIEWS, Mode

LABEL_COLUMNS = 5
WIDEST_CELL = 6
NARROWEST_CELL = 3
TALLEST_CELL = 3  # lines
NUMBERED_CELL = 5  # from here on a number fits
MARKS = tuple(wording.STATE_MARKS.values())
NOT_MEASURED = "·"


class HeatMap(ScrollView, can_focus=True):
    """Blocks down, roles across. Cells fill as layers are measured; the cursor is one cell."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each row is a transformer block, each column a role in it; a cell is one weight matrix.",
        "█ erased and ▃ drowned are at risk: rounding removes their update, or drowns it in error.",
        "m changes what is shown; Enter opens the layer: its histogram and where its codes went.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Up", show=False),
        Binding("down,j", "move(1, 0)", "Down", show=False),
        Binding("left,h", "move(0, -1)", "Left", show=False),
        Binding("right,l", "move(0, 1)", "Right", show=False),
        Binding("home,g", "move(-100000, 0)", "First block", show=False),
        Binding("end,G", "move(100000, 0)", "Last block", show=False),
        Binding("pageup", "move(-10, 0)", "Ten blocks up", show=False),
        Binding("pagedown", "move(10, 0)", "Ten blocks down", show=False),
        Binding("enter", "open", "Layer", tooltip="Open the layer"),
    ]

    mode: reactive[Mode] = reactive("risk")

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._cells: dict[tuple[int | None, str], list[LayerStatistics]] = {}
        self._blocks: list[int | None] = []
        self._columns: list[str] = []
        self._cursor = (0, 0)
        self._seen = 0
        self._brought_back: Mapping[str, float] = {}
        self.border_title = "Blocks × roles"

    def show(self, layers: Sequence[LayerStatistics]) -> None:
        """Show these layers; they begin with the ones shown before."""
        for layer in layers[self._seen :]:
            key = (layer.block, layer_views.column_of(layer))
            self._cells.setdefault(key, []).append(layer)
            if layer.block not in self._blocks:
                self._blocks.append(layer.block)
            if key[1] not in self._columns:
                self._columns.append(key[1])
        if len(layers) != self._seen:
            self._seen = len(layers)
            self._resize()
            self.refresh()

    def show_brought_back(self, shares: Mapping[str, float]) -> None:
        """Show what an attribution found: layer -> share of the drop that rounding it alone undoes."""
        if shares != self._brought_back:
            self._brought_back = shares
            self.watch_mode()

    def clear(self) -> None:
        """Forget every layer: another scheme is looked at."""
        self._cells, self._blocks, self._columns, self._seen = {}, [], [], 0

    def point_at(self, layer: str) -> None:
        """Put the cursor on a layer's cell, without a message."""
        for (block, column), found in self._cells.items():
            if any(one.name == layer for one in found):
                self._put_cursor(self._blocks.index(block), self._columns.index(column))
                return

    @property
    def current(self) -> LayerStatistics | None:
        """The worst layer of the cell under the cursor."""
        return self._worst(*self._cursor)

    def _worst(self, row: int, column: int) -> LayerStatistics | None:
        if not (0 <= row < len(self._blocks) and 0 <= column < len(self._columns)):
            return None
        found = self._cells.get((self._blocks[row], self._columns[column]))
        return min(found, key=badness) if found else None

    def watch_mode(self) -> None:
        view = VIEWS[self.mode]
        self.border_title = f"Blocks × roles ── {self.mode}"
        lacks = self.mode == BROUGHT_BACK and not self._brought_back
        self.border_subtitle = "none yet: quail attribute" if lacks else "m: another figure"
        self.tooltip = view.explained
        self.refresh()

    def on_resize(self) -> None:
        self._resize()

    @property
    def natural_width(self) -> int:
        """Columns of the whole map with numbers in its cells, including border and scroll bar."""
        return LABEL_COLUMNS + NUMBERED_CELL * max(7, len(self._columns)) + 5

    def _resize(self) -> None:
        self.virtual_size = Size(self.content_width, len(self._blocks) * self._cell_lines + 2)

    @property
    def _cell_lines(self) -> int:
        """Lines of a cell; more if the model has few blocks."""
        room = self.scrollable_content_region.height - 2
        return max(1, min(TALLEST_CELL, room // max(1, len(self._blocks))))

    @property
    def content_width(self) -> int:
        return LABEL_COLUMNS + self._cell_columns * len(self._columns)

    @property
    def _cell_columns(self) -> int:
        room = (self.scrollable_content_region.width - LABEL_COLUMNS) // max(1, len(self._columns))
        return max(NARROWEST_CELL, min(WIDEST_CELL, room))

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        if y == 0:
            return self._titles(width)
        if y == self.scrollable_content_region.height - 1:
            return self._legend(width)
        row, part = divmod(line - 1, self._cell_lines)
        if row >= len(self._blocks):
            return Strip.blank(width, self.rich_style)
        return self._row(row, width, is_labelled=part == (self._cell_lines - 1) // 2)

    def _titles(self, width: int) -> Strip:
        cell = self._cell_columns
        titles = layer_views.column_titles(self._columns, cell - 1)
        text = " " * LABEL_COLUMNS + "".join(f"{title:^{cell}}" for title in titles)
        return self._strip([Segment(text, palette.muted_style(self.app))], width)

    def _legend(self, width: int) -> Strip:
        muted = palette.muted_style(self.app)
        if self.mode == "risk":
            segments = []
            for state in STATES_BY_RISK[:-1]:
                assert state is not None  # noqa: S101 - only the last is
                mark = Segment(f" {wording.STATE_MARKS[state]}", palette.state_style(self.app, state))
                segments += [mark, Segment(str(state), muted)]
            return self._strip(segments, width)
        view = VIEWS[self.mode]
        ramp = [Segment("  ", palette.heat(self.app, stop / 8)) for stop in range(9)]
        ends = Segment(f" {view.low} safe ", muted), Segment(f" {view.high} at risk", muted)
        return self._strip([ends[0], *ramp, ends[1]], width)

    def _row(self, row: int, width: int, *, is_labelled: bool) -> Strip:
        block = self._blocks[row]
        label = "" if not is_labelled else wording.UNKNOWN if block is None else str(block)
        segments = [Segment(f"{label:>{LABEL_COLUMNS - 2}}  ", palette.muted_style(self.app))]
        segments.extend(self._cell(row, column, is_labelled) for column in range(len(self._columns)))
        return self._strip(segments, width)

    def _strip(self, segments: list[Segment], width: int) -> Strip:
        return Strip(segments).adjust_cell_length(width, self.rich_style).apply_style(self.rich_style)

    def _cell(self, row: int, column: int, is_labelled: bool) -> Segment:
        width = self._cell_columns
        layer = self._worst(row, column)
        text, style = self._look(layer, width)
        if not is_labelled and not text.startswith(MARKS):  # write a number once in a cell
            text = ""
        if (row, column) == self._cursor and self.has_focus:
            style += Style(reverse=True, bold=True)
        elif (row, column) == self._cursor:
            style += Style(underline=True, bold=True)
        return Segment(f"{text:^{width}}", style)

    def _look(self, layer: LayerStatistics | None, width: int) -> tuple[str, Style]:
        if layer is None:
            return NOT_MEASURED, palette.muted_style(self.app)
        mark = wording.STATE_MARKS[layer.state] if layer.state else "!"
        if self.mode == "risk" or layer.state is None:
            return f"{mark * (width - 1)} ", palette.state_style(self.app, layer.state)
        view = VIEWS[self.mode]
        value = view.value(layer) if self.mode != BROUGHT_BACK else self._brought_back.get(layer.name)
        if value is None and self.mode == BROUGHT_BACK:
            return NOT_MEASURED, palette.muted_style(self.app)
        if value is None:  # nothing changed
            return mark * (width - 1), palette.state_style(self.app, layer.state)
        risk = min(1.0, max(0.0, view.risk(value)))
        number = f"{100 * value:.0f}%" if self.mode == BROUGHT_BACK else layer_views.cell(value)
        text = number if width >= NUMBERED_CELL else str(round(risk * 9))
        return text, palette.heat(self.app, risk)

    def action_move(self, rows: int, columns: int) -> None:
        row = min(max(0, self._cursor[0] + rows), max(0, len(self._blocks) - 1))
        column = min(max(0, self._cursor[1] + columns), max(0, len(self._columns) - 1))
        self._put_cursor(row, column)
        self._post_highlighted()

    def action_open(self) -> None:
        if self.current is not None:
            self.post_message(LayerOpened(self.current.name))

    def _post_highlighted(self) -> None:
        if self.current is not None:
            self.post_message(LayerHighlighted(self, self.current.name))

    def _put_cursor(self, row: int, column: int) -> None:
        self._cursor = (row, column)
        lines = self._cell_lines
        self.scroll_to_region(Region(0, row * lines, 1, lines + 2), animate=False)
        self.refresh()

    def _cell_at(self, event: events.Click) -> tuple[int, int] | None:
        """Return row and column of the clicked cell; None if it has no layer."""
        offset = event.get_content_offset(self)
        if offset is None or offset.y < 1 or offset.x < LABEL_COLUMNS:
            return None
        row = (offset.y - 1 + self.scroll_offset.y) // self._cell_lines
        column = (offset.x - LABEL_COLUMNS) // self._cell_columns
        return (row, column) if self._worst(row, column) is not None else None

    def on_click(self, event: events.Click) -> None:
        cell = self._cell_at(event)
        if cell is None:
            return
        again = cell == self._cursor and event.chain > 1
        self._put_cursor(*cell)
        if again:
            self.action_open()
        else:
            self._post_highlighted()

    def action_next_mode(self) -> None:
        self.mode = MODES[(MODES.index(self.mode) + 1) % len(MODES)]
