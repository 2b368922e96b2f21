"""Show the log: what the app did, notes of runs, and their processes' standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Log

from quail_audit.core.untrusted import printable
from quail_audit.tui.live.followed import Followed
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.widgets.key_bar import KeyBar


class LogScreen(QuailScreen[None]):
    """Plain lines, the latest last."""

    HELP = "What the app did, the notes of its runs, and what their processes wrote to standard error."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, lines: Sequence[str], runs: Sequence[Followed]) -> None:
        super().__init__()
        self._lines = lines
        self._runs = runs
        self._written = 0

    def compose(self) -> ComposeResult:
        log = Log(id="log", classes="panel")
        log.border_title = "Log"
        yield log
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Log).focus()
        self.show_changes()

    def show_changes(self) -> None:
        """See QuailScreen."""
        lines = self._all_lines()
        self.query_one(Log).write_lines(lines[self._written :])
        self._written = len(lines)

    def _all_lines(self) -> list[str]:
        lines = [printable(line) for line in self._lines]
        for run in self._runs:
            lines.append(f"── {printable(run.folder_from_here)}")
            lines += [f"   note: {printable(note)}" for note in run.state.notes]
            if run.child is not None:
                lines += [f"   stderr: {printable(line)}" for line in run.child.errors().splitlines()]
        return lines

    def action_scroll(self, lines: int) -> None:
        self.query_one(Log).scroll_relative(y=lines, animate=False)
