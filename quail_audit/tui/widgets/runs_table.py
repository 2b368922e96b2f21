"""Show recent runs as a table: when, what, under which schemes, and how each ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePath
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.live.recent_runs import RecentRun, RunOutcome
from quail_audit.tui.theme import palette

WHEN_COLUMNS, SCHEMES_COLUMNS, STANDING_COLUMNS = 12, 11, 14
LEAST_PAIR_COLUMNS = 16
PADDING = 1  # of a cell, on either side


class RunsTable(DataTable[Text]):
    """One row for each run, the last written first. The cursor stays on its run when others come."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "✓ forgetting holds, ✗ it comes back, was not forgotten or costs utility, ? it cannot be told.",
        "● it is being measured, here or on another machine; ■ it was stopped.",
        "! it could not be measured; the number is its exit code: 3 for its input, 4 for this machine.",
        "Enter opens a run: a finished one as it was, a running one live.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open run"),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
    ]

    class Opened(Message):
        """A run was chosen."""

        def __init__(self, folder: Path) -> None:
            self.folder = folder
            super().__init__()

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=PADDING)
        self._runs: tuple[RecentRun, ...] = ()
        self._columns_known = 0
        self._now_s = 0.0

    def show(self, runs: Sequence[RecentRun], now_s: float) -> None:
        """Show these runs at a time in seconds since the epoch."""
        self._runs = tuple(runs)
        self._rebuild(now_s)

    @property
    def current(self) -> Path | None:
        """The folder of the run under the cursor."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return Path(str(self.ordered_rows[self.cursor_row].key.value))

    def refresh_colours(self, now_s: float) -> None:
        """Draw again, in another theme's colours or another width."""
        self._rebuild(now_s)

    def on_resize(self) -> None:
        """Draw the runs, which may have come before the table had a size."""
        self._rebuild(self._now_s)

    def _rebuild(self, now_s: float) -> None:
        self._now_s = now_s
        width = self.size.width
        if not width:  # not on screen yet
            return
        current, scrolled = self.current, self.scroll_y
        pair_columns = max(
            LEAST_PAIR_COLUMNS, width - WHEN_COLUMNS - SCHEMES_COLUMNS - STANDING_COLUMNS - 4 * 2 * PADDING - 1
        )
        with self.app.batch_update():
            if pair_columns != self._columns_known:
                self._columns_known = pair_columns
                self.clear(columns=True)
                for title, columns in (
                    ("when", WHEN_COLUMNS),
                    ("original → unlearned", pair_columns),
                    ("schemes", SCHEMES_COLUMNS),
                    ("verdict", STANDING_COLUMNS),
                ):
                    self.add_column(title, width=columns)
            else:
                self.clear()
            for run in self._runs:
                self.add_row(*self._row(run, pair_columns, now_s), key=str(run.folder))
            if current is not None and str(current) in self.rows:
                self.move_cursor(row=self.get_row_index(str(current)), scroll=False)
                self.scroll_to(y=scrolled, animate=False)

    def _row(self, run: RecentRun, pair_columns: int, now_s: float) -> tuple[Text, ...]:
        muted = palette.muted_style(self.app)
        return (
            Text(when(run.written_s, now_s), style=muted),
            Text(pair(run.request, pair_columns), no_wrap=True),
            Text(schemes(run.request, SCHEMES_COLUMNS), style=muted, no_wrap=True),
            Text(mark(run), style=self._style(run.standing)),
        )

    def _style(self, standing: RunOutcome) -> Style:
        if standing in ("pass", "fail", "inconclusive", "not measured"):
            return palette.scheme_style(self.app, standing)
        return palette.style(self.app, "accent" if standing == "running" else "muted", bold=standing == "running")

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if event.row_key.value is not None:
            self.post_message(RunsTable.Opened(Path(event.row_key.value)))


def mark(run: RecentRun) -> str:
    """Say how a run ended in a word or two."""
    match run.standing:
        case "running":
            return "● running"
        case "stopped" | "refused" | "failed":
            return wording.unjudged_mark(run.exit_code).lower()
    return wording.STANDING_MARKS[run.standing]


def when(written_s: float, now_s: float) -> str:
    """Write a time as "today 12:05", "3 Nov 12:05" or "3 Nov 2025", in this machine's time zone."""
    written, now = datetime.fromtimestamp(written_s), datetime.fromtimestamp(now_s)
    if written.date() == now.date():
        return f"today {written:%H:%M}"
    if now - written < timedelta(days=180):
        return f"{written.day} {written:%b %H:%M}"
    return f"{written.day} {written:%b %Y}"


def pair(request: AuditRequest, columns: int) -> str:
    """Write both checkpoints in so many columns: in full, or only the parts of their paths that differ."""
    original, unlearned = PurePath(request.original), PurePath(request.unlearned)
    one, other = original.name, unlearned.name
    rest = f"…{other[len(one) :]}" if other.startswith(one) and other != one else other
    tries = [f"{original} → {unlearned}"]
    if original.parent == unlearned.parent and original.parent.name:
        tries += [f"{original.parent.name}/{one} → {other}"]
    tries += [f"{one} → {other}", f"{one} → {rest}"]
    texts = [printable(text) for text in tries]
    return next((text for text in texts if len(text) <= columns), f"{texts[-1][: columns - 1]}…")


def schemes(request: AuditRequest, columns: int) -> str:
    """Write the schemes: nf4 fp4; nf4 +3 if they do not all fit."""
    text = printable(" ".join(request.schemes))
    first, more = printable(request.schemes[0]) if request.schemes else "", len(request.schemes) - 1
    return text if len(text) <= columns else f"{first} +{more}" if more else f"{first[: columns - 1]}…"
