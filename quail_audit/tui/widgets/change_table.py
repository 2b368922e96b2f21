"""Show the layers of two runs, before and after, the largest change first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import LayerStatistics
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.layer_table import end_of
from quail_audit.verdict.comparison import CHANGE_MARKS, LayerChange

Figure = Callable[[LayerStatistics], str]
FIGURES: Mapping[str, tuple[int, Figure]] = {  # columns of one figure, and how it is written
    "overlap": (7, lambda layer: wording.share_text(layer.overlap)),
    "survival": (6, lambda layer: wording.ratio_text(layer.survival)),
    "noise": (6, lambda layer: wording.ratio_text(layer.noise)),
}
STATE_COLUMNS = 9
WIDE, NARROW = " → ", "→"
PADDING = 1
LARGEST_FIRST, MODEL_ORDER = "largest change", "model order"
_KEYS: Mapping[str, Callable[[LayerChange], Any]] = {
    LARGEST_FIRST: lambda change: -change.size,
    "worse first": lambda change: (("worse", "changed", "same", "better").index(change.standing), -change.size),
    "layer": lambda change: change.name,
}
ORDERS = (LARGEST_FIRST, "worse first", MODEL_ORDER, "layer")


class ChangeTable(DataTable[Text]):
    """One row for each layer that both runs measured; sortable, filterable."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each figure is before → after. ▲ is no longer at risk, ▼ now is, ≠ has another state at the same risk.",
        "The largest change comes first: steps from state to state, then how far overlap and survival moved.",
        "o changes the order; / keeps only the layers whose name or state, before or after, has the text.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
        Binding("o", "next_order(1)", "Sort"),
        Binding("O", "next_order(-1)", "Sort back", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes="panel", cursor_type="row", cell_padding=PADDING)
        self._changes: tuple[LayerChange, ...] = ()
        self._order = LARGEST_FIRST
        self._filter = ""
        self._arrow = WIDE
        self._columns_shown: tuple[str, ...] = ()
        self.counted = ""

    def show(self, changes: Sequence[LayerChange], counted: str) -> None:
        """Show these changes; counted: their counts, for the title."""
        self.counted = counted
        self._changes = tuple(changes)
        self._rebuild()

    def keep(self, text: str) -> None:
        """Show only layers with this text in name or state; all if it is empty."""
        self._filter = text.strip().casefold()
        self._rebuild()

    @property
    def in_order(self) -> list[str]:
        """Layers in the order shown."""
        return [str(row.key.value) for row in self.ordered_rows]

    def action_next_order(self, step: int) -> None:
        self._order = ORDERS[(ORDERS.index(self._order) + step) % len(ORDERS)]
        self._rebuild()

    def on_resize(self) -> None:
        wide = self.size.width >= 90
        self._arrow = WIDE if wide else NARROW
        self._columns_shown = tuple(FIGURES) if self.size.width >= 100 else ("overlap", "survival")
        self._rebuild()

    def _rebuild(self) -> None:
        if not self._columns_shown:  # not on screen yet
            return
        row = self.cursor_row
        changes = [change for change in self._changes if self._is_kept(change)]
        if self._order != MODEL_ORDER:
            changes.sort(key=_KEYS[self._order])
        with self.app.batch_update():
            self.clear(columns=True)
            for column in ("layer", *self._columns_shown, "state"):
                self.add_column(Text(column), key=column, width=self._width(column))
            for change in changes:
                self.add_row(*self._row(change), key=change.name)
            if changes:
                self.move_cursor(row=min(row, len(changes) - 1))
        self.border_title = f"Layers ── {self.counted}" if self.counted else "Layers"
        kept = f" · {len(changes)} of {len(self._changes)} match “{self._filter}”" if self._filter else ""
        self.border_subtitle = f"sorted: {self._order}{kept}"

    def _is_kept(self, change: LayerChange) -> bool:
        return self._filter in change.name.casefold() or self._filter in (change.before.state, change.after.state)

    def _row(self, change: LayerChange) -> list[Text]:
        cells = [Text(end_of(printable(change.name), self._width("layer")), no_wrap=True)]
        for column in self._columns_shown:
            _, shown = FIGURES[column]
            cells.append(Text(f"{shown(change.before)}{self._arrow}{shown(change.after)}"))
        mark = CHANGE_MARKS[change.standing]
        state = Text(f"{mark} ", style=palette.change_style(self.app, change.standing))
        before, after = change.before.state, change.after.state
        state.append(wording.layer_state(change.before), style=palette.state_style(self.app, before))
        if after != before:
            state.append(self._arrow, style=palette.muted_style(self.app))
            state.append(wording.layer_state(change.after), style=palette.state_style(self.app, after))
        return [*cells, state]

    def _width(self, column: str) -> int:
        if column == "state":
            return 2 * STATE_COLUMNS + len(self._arrow)
        if column != "layer":
            return 2 * FIGURES[column][0] + len(self._arrow)
        others = sum(self._width(other) + 2 * PADDING for other in (*self._columns_shown, "state"))
        return max(16, self.size.width - others - 2 * PADDING - 2)
