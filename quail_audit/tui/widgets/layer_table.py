"""Show the layers of a run as a table, in model order until the reader sorts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable
from textual.widgets.data_table import RowKey

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.report import badness
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.layer_messages import LayerHighlighted, LayerOpened
from quail_audit.tui.words import layer_views

ALL_COLUMNS = ("layer", "weights", "identical", "overlap", "survival", "noise", "update/bucket", "state")
FEW_COLUMNS = ("layer", "overlap", "survival", "state")
COLUMN_WIDTHS = {
    "weights": 7,
    "identical": 9,
    "overlap": 8,
    "survival": 8,
    "noise": 7,
    "update/bucket": 13,
    "state": 11,
}
PADDING = 1  # of a cell, on either side
STATE_ORDER = "worst first"
MODEL_ORDER = "model order"

_KEYS: Mapping[str, Callable[[LayerStatistics], Any]] = {
    STATE_ORDER: badness,
    "layer": lambda layer: layer.name,
    "weights": lambda layer: -layer.weights,
    "identical": lambda layer: -1.0 if layer.identical is None else -layer.identical,
    "overlap": lambda layer: -1.0 if layer.overlap is None else -layer.overlap,
    "survival": lambda layer: 2.0 if layer.survival is None else layer.survival,
    "noise": lambda layer: 0.0 if layer.noise is None else -layer.noise,
    "update/bucket": lambda layer: 2.0 if layer.update_to_bucket is None else layer.update_to_bucket,
    "state": badness,
}
ORDERS = (MODEL_ORDER, STATE_ORDER, "overlap", "survival", "noise", "update/bucket", "identical", "weights", "layer")


class LayerTable(DataTable[Text]):
    """One row for each layer; sortable, filterable. Rows come as layers are measured and never move by themselves."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Overlap near 1 and survival near 0: the deployed checkpoints are the same model there.",
        "o sorts by the next column (worst first, overlap, …), O by the previous; a click on a heading sorts too.",
        "/ keeps only the layers whose name or state has the text; Enter opens the layer.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
        Binding("enter", "select_cursor", "Layer", tooltip="Open the layer"),
        Binding("o", "next_order(1)", "Sort", show=False),
        Binding("O", "next_order(-1)", "Sort back", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=PADDING)
        self._layers: list[LayerStatistics] = []
        self._shown = 0  # how many of them have been considered for rows
        self._order = MODEL_ORDER
        self._filter = ""
        self._columns_shown: tuple[str, ...] = ()
        self._agreed: str | None = None  # the layer last reported
        self.border_title = "Layers"

    def show(self, layers: Sequence[LayerStatistics]) -> None:
        """Show these layers; they begin with the ones shown before."""
        if len(layers) == len(self._layers):
            return
        self._layers = list(layers)
        if self._order == MODEL_ORDER:
            self._add(self._layers[self._shown :])
            self._shown = len(self._layers)
        else:
            self._rebuild()
        self._title()

    def clear_layers(self) -> None:
        """Forget every layer: another scheme is looked at."""
        self._layers, self._shown = [], 0
        self.clear()
        self._title()

    def keep(self, text: str) -> None:
        """Show only layers with this text in name or state; all if it is empty."""
        self._filter = text.strip().casefold()
        self._rebuild()
        self._title()

    def point_at(self, layer: str) -> None:
        """Put the cursor on a layer's row, without a message."""
        if RowKey(layer) in self.rows:
            self._agreed = layer
            self.move_cursor(row=self.get_row_index(layer))

    @property
    def current(self) -> str | None:
        """The layer under the cursor."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self.ordered_rows[self.cursor_row].key.value

    @property
    def in_order(self) -> list[str]:
        """Layers in the order shown."""
        return [str(row.key.value) for row in self.ordered_rows]

    def action_next_order(self, step: int) -> None:
        self.sort_by(ORDERS[(ORDERS.index(self._order) + step) % len(ORDERS)])

    def sort_by(self, order: str) -> None:
        """Sort by one of ORDERS."""
        self._order = order
        self._rebuild()
        self._title()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        event.stop()
        column = event.column_key.value or MODEL_ORDER
        order = STATE_ORDER if column == "state" else column
        self.sort_by(MODEL_ORDER if order == self._order else order)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        layer = event.row_key.value
        is_stale = event.cursor_row != self.cursor_row  # rows were rebuilt in between
        if layer is not None and layer != self._agreed and self.has_focus and not is_stale:
            self._agreed = layer
            self.post_message(LayerHighlighted(self, layer))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if event.row_key.value is not None:
            self.post_message(LayerOpened(event.row_key.value))

    def on_resize(self) -> None:
        columns = ALL_COLUMNS if self.size.width >= 100 else FEW_COLUMNS
        self._columns_shown = columns
        self._rebuild()

    def refresh_colours(self) -> None:
        """Draw again, in another theme's colours."""
        self._rebuild()

    def _rebuild(self) -> None:
        if not self._columns_shown:  # not on screen yet
            return
        current = self.current
        with self.app.batch_update():
            self.clear(columns=True)
            for column in self._columns_shown:
                self.add_column(self._heading(column), key=column, width=self._width(column))
            layers = self._layers
            if self._order != MODEL_ORDER:
                layers = sorted(layers, key=_KEYS[self._order])
            self._add(layers)
            self._shown = len(self._layers)
            if current is not None:
                self.point_at(current)

    def _add(self, layers: Sequence[LayerStatistics]) -> None:
        if not self._columns_shown:
            return
        for layer in layers:
            if self._filter in layer.name.casefold() or self._filter == layer.state:
                self.add_row(*self._row(layer), key=layer.name)

    def _row(self, layer: LayerStatistics) -> list[Text]:
        figures = layer_views.figures(layer)
        width = self._width("layer")
        cells = []
        for column in self._columns_shown:
            if column == "layer":
                cells.append(Text(end_of(printable(layer.name), width), no_wrap=True))
            elif column == "state":
                mark = wording.STATE_MARKS[layer.state] if layer.state else "!"
                text = f"{mark} {wording.layer_state(layer)}"
                cells.append(Text(text, style=palette.state_style(self.app, layer.state)))
            else:
                cells.append(Text(figures[column], justify="right"))
        return cells

    def _heading(self, column: str) -> Text:
        sorted_by = column == self._order or (column == "state" and self._order == STATE_ORDER)
        text = f"{column} ▾" if sorted_by else column
        return Text(text, justify="left" if column in ("layer", "state") else "right")

    def _width(self, column: str) -> int:
        if column != "layer":
            return COLUMN_WIDTHS[column] + 2 * (column == self._order)
        others = sum(self._width(other) + 2 * PADDING for other in self._columns_shown if other != "layer")
        return max(20, self.size.width - others - 2 * PADDING - 2)

    def _title(self) -> None:
        counted = wording.state_counts(self._layers)
        self.border_title = f"Layers ── {counted}" if counted else "Layers"
        kept = f" · {self.row_count} of {len(self._layers)} match “{self._filter}”" if self._filter else ""
        self.border_subtitle = f"{self._order}{kept} · o: sort · /: filter"


def end_of(name: str, columns: int) -> str:
    """Return the end of a long name, which tells layers apart."""
    return name if len(name) <= columns else f"…{name[1 - columns :]}"
