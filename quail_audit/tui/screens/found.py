"""Show in full what was found about each choice; the start screen has a line for each."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from quail_audit.tui.form.choices import Found
from quail_audit.tui.widgets.found import FoundView

LOOK_EVERY_S = 0.25


class FoundScreen(ModalScreen[None]):
    """Shows new answers while it is open.

    Args:
        found: the answers, which grow while the screen is open.
    """

    HELP = "What was found in the chosen checkpoints, data and limits."
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f2,q", "close", "Close")]

    def __init__(self, found: Found) -> None:
        super().__init__()
        self._found = found
        self._shown: Found = {}

    def compose(self) -> ComposeResult:
        view = FoundView(classes="panel")
        view.border_title = "What was found"
        view.border_subtitle = "Escape closes"
        yield view

    def on_mount(self) -> None:
        self.query_one(FoundView).focus()
        self.query_one(FoundView).show(self._found)
        self.set_interval(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        if self._found != self._shown:
            self._shown = dict(self._found)
            self.query_one(FoundView).show(self._found)

    def action_close(self) -> None:
        self.dismiss(None)
