"""What the screens of a training and of a cure have in common: how it stands, and then the audit of its result.

Not here: what each shows of its own while it goes on (training.py, cure.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.text import Text

from quail_audit.schema.events.common import CheckpointSaved
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.live.followed import Making
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.theme import palette


class MakingScreen(QuailScreen[None]):
    """A run that makes something.

    Args:
        making: that is followed.
        before: the audit it began with: what its result is measured and held against; None where that is not at hand.
    """

    def __init__(self, making: Making, before: LiveRun | None) -> None:
        super().__init__()
        self._making = making
        self._before = before
        self._after: LiveRun | None = None
        self._seen = -1
        self._could_do: tuple[bool, bool] | None = None

    def _alone(self, result: CheckpointSaved) -> AuditRequest:
        """What to ask of the result where the audit before is not at hand."""
        raise NotImplementedError

    def _command(self) -> Sequence[str]:
        """That repeats it."""
        raise NotImplementedError

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._seen = -1
        self.show_changes()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The audit of the result is offered once there is one, stopping while there is something to stop."""
        if action == "audit":
            return self._making.result is not None
        return self._making.is_running_here if action == "stop" else True

    def _show_bindings(self) -> None:
        can_do = self._making.is_running_here, self._making.result is not None
        if can_do != self._could_do:  # the footer is made anew, which must not be seen
            self._could_do = can_do
            self.refresh_bindings()

    def _badge(self, stage: str) -> Text:
        """How it stands, for the header."""
        return {
            "finished": Text("✓ FINISHED", style=palette.style(self.app, "verdict-pass", bold=True)),
            "stopped": Text("■ STOPPED", style=palette.style(self.app, "error", bold=True)),
            "stopping": Text("◌ stopping", style=palette.style(self.app, "warning")),
        }.get(stage, Text(f"● {stage}", style=palette.style(self.app, "accent")))

    def _offered(self) -> Text:
        """What can be done with the result."""
        offer = "see before and after again" if self._after is not None else "audit it, and see before and after"
        return Text(f"   Press a to {offer}", style=palette.style(self.app, "accent", bold=True))

    def action_audit(self) -> None:
        """Measure the result as the run before was measured, and show both; without one, by itself."""
        from quail_audit.tui.screens.compare import CompareScreen

        result = self._making.result
        if result is None:
            self.quail.say("There is no result to audit yet")
            return
        request = self._before.request if self._before is not None else None
        if self._before is None or request is None:
            self.quail.start_audit(self._alone(result))
            return
        if self._after is None:
            self._after = self.quail.measure(request.model_copy(update={"unlearned": result.folder}))
        self.app.push_screen(CompareScreen(self._before, self._after))

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(shlex.join(self._command()))
        self.quail.say("The command is copied")
