"""Show the policy of a run and the outcome of each rule, over the audit screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.widgets.policy_view import PolicyView

LOOK_EVERY_S = 0.25


class PolicyScreen(ModalScreen[None]):
    """Follows the run while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,p,q", "close", "Close")]

    def __init__(self, run: LiveRun) -> None:
        super().__init__()
        self.run = run
        self._seen: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        view = PolicyView(classes="panel")
        view.border_title = "Policy"
        view.border_subtitle = "Escape closes"
        yield view

    def on_mount(self) -> None:
        self.query_one(PolicyView).focus()
        self._look()
        self.set_interval(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Draw only if the policy's outcome changed: samples and layers, which come by the thousand, do not count."""
        state = self.run.state
        seen = (state.started, state.policy, state.verdict, state.rules, self.run.is_over)
        if seen != self._seen:
            self._seen = seen
            self.query_one(PolicyView).show(self.run)

    def action_close(self) -> None:
        self.dismiss(None)
