"""Show the list of samples: what came back of each, and every arm's score if there is room.

Only the lines on screen are drawn, so that 10,000 samples cost no more than ten. Rows never move by themselves: new
ones come at the end until the reader sorts.
"""

from __future__ import annotations

from itertools import groupby
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from quail_audit.core.untrusted import printable
from quail_audit.tui.live.sample_scores import CAME_BACK, KEPT, LEAK, SampleScores, change, figure
from quail_audit.tui.theme import palette

MARK_COLUMNS = 2
NUMBER_COLUMNS = 6
CHANGE_COLUMNS = 10
ARM_COLUMNS = 6
LONE_ARM_COLUMNS = 8  # of a checkpoint with one arm, which is as wide as its name
NARROW_WIDTH = MARK_COLUMNS + NUMBER_COLUMNS + CHANGE_COLUMNS + 1
FOUND = "•"


class SampleList(ScrollView, can_focus=True):
    """One line for each sample."""

    DEFAULT_CLASSES = "panel"
    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "came back: how much better the rounded unlearned model knows a sample than the unrounded one does.",
        "▲ is back: known by over half. △ was never forgotten. i shows only ▲. • has the text that was searched for.",
        "o sorts by the next column, r sorts again after changes. A sample's number is its place in the data.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("pagedown,ctrl+d", "move_page(1)", "A page down", show=False),
        Binding("pageup,ctrl+u", "move_page(-1)", "A page up", show=False),
        Binding("home,g", "move(-1000000000)", "First", show=False),
        Binding("end,G", "move(1000000000)", "Last", show=False),
        Binding(
            "enter",
            "screen.enlarge",
            "Enlarge",
            show=False,
            tooltip="Give the texts the whole screen, or the list back",
        ),
        Binding("o", "next_order(1)", "Sort", tooltip="Sort by the next column"),
        Binding("O", "next_order(-1)", "Sort back", show=False),
        Binding("r", "sort_again", "Sort again", show=False, tooltip="Sort again, with what has changed since"),
    ]

    class Highlighted(Message):
        """The cursor is on another sample."""

    class Enlarged(Message):
        """A sample was clicked twice."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.found: set[int] = set()  # numbers of samples that have what was searched for
        self.order = CAME_BACK
        self.only_back = False  # shows only the items that are back
        self._scores: SampleScores | None = None
        self._rows: list[int] = []  # of the scores, as they stand
        self._place = 0
        self._is_stale = False

    @property
    def place(self) -> int:
        """The cursor's place, from 0."""
        return self._place

    @property
    def rows(self) -> list[int]:
        """Rows of the scores, in the order shown."""
        return self._rows

    @property
    def row(self) -> int | None:
        """The row under the cursor."""
        return self._rows[self._place] if self._place < len(self._rows) else None

    @property
    def has_arms(self) -> bool:
        """True if there is room for every arm's score."""
        return self._scores is not None and self.size.width >= self.full_width

    @property
    def full_width(self) -> int:
        """Columns that every arm's score takes."""
        return NARROW_WIDTH + sum(columns for _, arms in self._checkpoints() for columns in arms.values())

    def _checkpoints(self) -> list[tuple[str, dict[str, int]]]:
        """Each checkpoint with its arms and their columns."""
        arms = self._scores.arms if self._scores is not None else ()
        found = []
        for checkpoint, group in groupby(arms, key=lambda arm: arm.partition("/")[0]):
            own = list(group)
            found.append((checkpoint, dict.fromkeys(own, ARM_COLUMNS if len(own) > 1 else LONE_ARM_COLUMNS)))
        return found

    def open(self, scores: SampleScores, number: int | None = None) -> None:
        """Show other scores, sorted, with the cursor on the first or on the sample of this number, if it exists."""
        self._scores = scores
        self.found = set()
        if self.order not in scores.orders():
            self.order = CAME_BACK
        self._sort()
        numbers = scores.numbers
        self._place = next((place for place, row in enumerate(self._rows) if numbers[row] == number), 0)
        self._follow_cursor()

    def grow(self) -> None:
        """Show what the scores have taken in since, without moving a row."""
        assert self._scores is not None  # noqa: S101 - there was something to grow
        if not self.only_back:  # else they join when the list is sorted again
            self._rows += range(len(self._rows), len(self._scores))
        self._is_stale = True
        self._resize()
        self._title()
        self.refresh()

    def go_to(self, place: int) -> None:
        """Put the cursor on a place, or on the nearest one."""
        self._place = min(max(0, place), max(0, len(self._rows) - 1))
        self._follow_cursor()
        self.post_message(self.Highlighted())

    def sort_by(self, order: str) -> None:
        """Sort by one of the scores' orders. The cursor stays on its sample."""
        self.order = order
        row = self.row
        self._sort()
        if row is not None:
            self._place = self._rows.index(row) if row in self._rows else 0
        self._follow_cursor()
        self.post_message(self.Highlighted())

    def keep_back(self, *, only: bool) -> None:
        """Show only the items that are back, or all. The cursor stays on its sample if that is shown."""
        self.only_back = only
        row = self.row
        self._sort()
        self.go_to(self._rows.index(row) if row in self._rows else 0)

    def next_found(self, step: int) -> bool:
        """Go to the next sample found, around the end too; return whether there is one."""
        assert self._scores is not None  # noqa: S101 - something was found in it
        count, numbers = len(self._rows), self._scores.numbers
        for distance in range(1, count + 1):
            place = (self._place + step * distance) % count
            if numbers[self._rows[place]] in self.found:
                self.go_to(place)
                return True
        return False

    def _sort(self) -> None:
        assert self._scores is not None  # noqa: S101 - the callers have one
        self._rows = self._scores.sorted_rows(self.order)
        if self.only_back and self._scores.counts_items:
            backs = self._scores.backs()
            self._rows = [row for row in self._rows if backs[row]]
        self._is_stale = False
        self._resize()
        self._title()

    def _title(self) -> None:
        self.border_title = self._counted()
        order = printable(self.order)
        if self.size.width < 34:
            self.border_subtitle = Text(f"r sorts by {order}" if self._is_stale else f"by {order}")
        else:
            self.border_subtitle = Text(f"was sorted: {order} · r again" if self._is_stale else f"sorted: {order}")

    def _counted(self) -> str:
        """Return how many samples there are, and how many are back if the verdict counts them."""
        if self._scores is None or not self._scores.counts_items or not len(self._scores):
            return f"Samples ── {len(self._rows)}"
        back = f"{int(self._scores.backs().sum())} of {len(self._scores)}"
        return f"{LEAK} {back} only" if self.only_back else f"{back} back"

    def on_resize(self) -> None:
        self._resize()
        self._title()
        self._follow_cursor()

    def _resize(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._rows) + self._heading_lines)

    @property
    def _heading_lines(self) -> int:
        return 2 if self.has_arms else 1

    def _follow_cursor(self) -> None:
        self.scroll_to_region(Region(0, self._place, 1, self._heading_lines + 1), animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y < self._heading_lines:
            segments = [Segment(self._heading(y), palette.muted_style(self.app))]
        else:
            segments = self._line(y - self._heading_lines + self.scroll_offset.y)
        return Strip(segments).adjust_cell_length(width, self.rich_style).apply_style(self.rich_style)

    def _heading(self, y: int) -> str:
        last = y == self._heading_lines - 1
        text = " " * MARK_COLUMNS
        text += f"{'sample':>{NUMBER_COLUMNS}}{'came back':>{CHANGE_COLUMNS}}" if last else " " * (NARROW_WIDTH - 3)
        for checkpoint, arms in self._checkpoints() if self.has_arms else ():
            columns = sum(arms.values())
            titles = {arm.partition("/")[2]: width for arm, width in arms.items()} if last else {checkpoint: columns}
            text += "".join(f"{printable(title, limit=width - 1):>{width}}" for title, width in titles.items())
        return text

    def _line(self, place: int) -> list[Segment]:
        if self._scores is None or place >= len(self._rows):
            nothing = "" if self._rows or place else f" {self.empty_text()}"
            return [Segment(nothing, palette.muted_style(self.app))]
        row, metric = self._rows[place], self._scores.metric
        number = self._scores.numbers[row]
        muted = palette.muted_style(self.app)
        leaks = self._scores.leaks(row)
        leaking = palette.style(self.app, "verdict-fail", bold=True)
        came_back = change(self._scores.came_back(row), metric)
        segments = [
            Segment(FOUND if number in self.found else " ", palette.style(self.app, "accent", bold=True)),
            Segment(LEAK if leaks else KEPT if self._scores.is_kept(row) else " ", leaking),
            Segment(f"{number:>{NUMBER_COLUMNS}}", muted),
            Segment(f"{came_back:>{CHANGE_COLUMNS}}", leaking if leaks else palette.style(self.app, "foreground")),
        ]
        if self.has_arms:
            for _, arms in self._checkpoints():
                segments += [self._score(row, arm, columns) for arm, columns in arms.items()]
        if place != self._place:
            return segments
        background = "block-cursor-background" if self.has_focus else "block-cursor-blurred-background"
        cursor = Style(bgcolor=self.app.theme_variables[background], bold=True)
        width = self.scrollable_content_region.width
        return list(Strip(segments).adjust_cell_length(width).apply_style(cursor))

    def empty_text(self) -> str:
        """Say why there is nothing in the list."""
        if self.only_back and self._scores is not None and len(self._scores):
            return "none is back; i shows all"
        return "no sample of this metric has been answered yet"

    def _score(self, row: int, arm: str, columns: int) -> Segment:
        assert self._scores is not None  # noqa: S101 - the caller has them
        score = self._scores.score(row, arm)
        style = palette.muted_style(self.app) if score is None else palette.style(self.app, "foreground")
        return Segment(f"{figure(score, self._scores.metric):>{columns}}", style)

    def action_move(self, rows: int) -> None:
        self.go_to(self._place + rows)

    def action_move_page(self, pages: int) -> None:
        self.go_to(self._place + pages * max(1, self.size.height - self._heading_lines - 1))

    def action_next_order(self, step: int) -> None:
        if self._scores is not None:
            orders = self._scores.orders()
            self.sort_by(orders[(orders.index(self.order) + step) % len(orders)])

    def action_sort_again(self) -> None:
        if self._scores is not None:
            self.sort_by(self.order)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or offset.y < self._heading_lines:
            return
        place = offset.y - self._heading_lines + self.scroll_offset.y
        if place < len(self._rows):
            self.go_to(place)
            if event.chain > 1:
                self.post_message(self.Enlarged())
