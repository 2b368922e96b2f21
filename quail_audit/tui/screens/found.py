"""What was found about the choices, in full, where the start screen has only a line for each."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from quail_audit.tui.form.choices import Found
from quail_audit.tui.widgets.found import FoundView

LOOK_EVERY_S = 0.25


class FoundScreen(ModalScreen[None]):
    """Goes on showing what is found while it is open.

    Args:
        found: what is known; whoever finds more out adds to it.
    """

    HELP = "What was found in the checkpoints, the data and the limits that are chosen."
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
