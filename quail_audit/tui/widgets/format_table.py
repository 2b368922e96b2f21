"""Show each scheme of a run with its verdict and the figures that decide it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.layer_table import end_of
from quail_audit.verdict.standings import SchemeStanding, holds_at

COLUMN_WIDTHS = {
    "format": 23,
    "verdict": 14,
    "back": 9,
    "known": 15,
    "of": 16,
    "utility": 7,
    "format leaves": 13,
    "leaves": 6,
    "known %": 7,
    "at risk": 7,
    "layers at risk": 14,
}
FEW_COLUMNS = ("format", "verdict", "back", "known %", "utility", "leaves")
MORE_COLUMNS = ("format", "verdict", "back", "known", "utility", "format leaves", "at risk")
ALL_COLUMNS = ("format", "verdict", "back", "known", "of", "utility", "format leaves", "layers at risk", "why")
WEIGHTS_COLUMNS = ("format", "verdict", "layers at risk")  # of an audit without data
LEFT_COLUMNS = ("format", "verdict", "of", "why")
LEAST_WIDTHS: tuple[tuple[int, tuple[str, ...]], ...] = ((150, ALL_COLUMNS), (105, MORE_COLUMNS), (0, FEW_COLUMNS))
PADDING = 1  # of a cell, on either side


class FormatTable(DataTable[Text]):
    """One row for each scheme; the cursor is on the one that the rest of the screen shows."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "A verdict for each scheme the model may ship in; PASS: forgetting holds. Back and known: the worst metric's.",
        "Utility: the least that the model keeps of a retain score; format leaves: the least that rounding leaves it.",
        "The cursor chooses the scheme of the layers, the map and the scores; Enter goes to them.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
        Binding("enter", "select_cursor", "Look", tooltip="Look at this scheme's layers and scores"),
    ]

    class Highlighted(Message):
        """The cursor is on another scheme."""

        def __init__(self, scheme: str) -> None:
            self.scheme = scheme
            super().__init__()

    class Opened(Highlighted):
        """A scheme was chosen."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=PADDING)
        self._asked: tuple[LiveRun, str] | None = None  # what to show as soon as there is room
        self._drawn: tuple[object, ...] = ()
        self._agreed: str | None = None  # the scheme last reported
        self.border_title = "Formats"

    def show(self, run: LiveRun, scheme: str) -> None:
        """Draw what is known now, with the cursor on this scheme."""
        self._asked = (run, scheme)
        if not (self.display and self.size.width):
            return
        formats = run.formats()
        drawn = (formats, self.size.width, run.is_over, self.app.theme)
        if drawn != self._drawn:
            self._drawn = drawn
            self._rebuild(run, formats)
        self._agreed = scheme
        rows = [each.scheme for each in formats]
        if scheme in rows and self.row_count:
            self.move_cursor(row=rows.index(scheme))
        self.border_title = f"Formats ── {len(holds_at(formats))} of {len(formats)} hold"

    def on_show(self) -> None:
        self.on_resize()

    def on_resize(self) -> None:
        if self._asked is not None:
            self.show(*self._asked)

    def _rebuild(self, run: LiveRun, formats: tuple[SchemeStanding, ...]) -> None:
        columns = next(columns for least, columns in LEAST_WIDTHS if self.size.width >= least)
        if run.request is not None and run.request.data is None:
            columns = WEIGHTS_COLUMNS
        with self.app.batch_update():
            self.clear(columns=True)
            for column in columns:
                heading = Text(column, justify="left" if column in LEFT_COLUMNS else "right")
                self.add_column(heading, key=column, width=self._width(column, columns))
            for each in formats:
                cells = self._cells(run, each)
                widths = {column: self._width(column, columns) for column in columns}
                row = [
                    Text(end_of(cells[column].plain, widths[column]), style=cells[column].style, no_wrap=True)
                    if column == "format"
                    else cells[column]
                    for column in columns
                ]
                self.add_row(*row, key=each.scheme)

    def _cells(self, run: LiveRun, each: SchemeStanding) -> dict[str, Text]:
        verdict = wording.STANDING_MARKS[each.standing]
        if each.standing == "unknown" and not run.is_over:
            verdict = "● measuring"
        knowledge = each.knowledge
        known = None if knowledge is None else wording.known_of(knowledge)
        leaves = wording.percent_text(_format_percent(run, each))
        right = {
            "back": wording.back_text(knowledge) or wording.UNKNOWN,
            "known": wording.worst_knowledge(each),
            "known %": wording.UNKNOWN if known is None else str(round(known.percent)).replace("-", "−"),
            "format leaves": leaves,
            "leaves": leaves,
            "at risk": wording.UNKNOWN if each.layers_at_risk is None else str(each.layers_at_risk),
            "layers at risk": wording.layers_at_risk(each),
            "utility": wording.percent_text(each.utility_percent),
        }
        metric = wording.metric_title(each.metric) if each.metric is not None else ""
        return {column: Text(text, justify="right") for column, text in right.items()} | {
            "format": Text(printable(each.scheme)),
            "verdict": Text(verdict, style=palette.scheme_style(self.app, each.standing)),
            "of": Text(printable(metric), no_wrap=True),
            "why": Text(printable(each.failure.message) if each.failure else "", no_wrap=True, overflow="ellipsis"),
        }

    def _width(self, column: str, columns: tuple[str, ...]) -> int:
        if column != "why":
            return COLUMN_WIDTHS[column]
        others = sum(COLUMN_WIDTHS[other] + 2 * PADDING for other in columns if other != "why")
        return max(10, self.size.width - others - 2 * PADDING - 2)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        scheme = event.row_key.value
        is_stale = event.cursor_row != self.cursor_row  # rows were rebuilt in between
        if scheme is not None and scheme != self._agreed and self.has_focus and not is_stale:
            self._agreed = scheme
            self.post_message(FormatTable.Highlighted(scheme))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if event.row_key.value is not None:
            self.post_message(FormatTable.Opened(event.row_key.value))


def _format_percent(run: LiveRun, each: SchemeStanding) -> float | None:
    """Return the least that the format leaves to the original: of a retain metric, or of what there was to forget."""
    found = [kept.format_percent for kept in run.state.utility.get(each.scheme, {}).values()]
    found += [each.knowledge.format_percent] if each.knowledge is not None else []
    return min((percent for percent in found if percent is not None), default=None)
