"""Show how a training or a cure stands, and lead to the audit of its result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.events.common import CheckpointSaved
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.live.followed import Making
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.words.endings import RunKind, why_it_stopped


class MakingScreen(QuailScreen[None]):
    """A run that makes something.

    Args:
        making: the training or cure.
        before: the audit that it began with, which its result is compared with; None if that is not available.
    """

    def __init__(self, making: Making, before: LiveRun | None) -> None:
        super().__init__()
        self._making = making
        self._before = before
        self._after: LiveRun | None = None
        self._seen = -1
        self._could_do: tuple[bool, bool] | None = None

    KIND: ClassVar[RunKind]

    def _lone_request(self, result: CheckpointSaved) -> AuditRequest:
        """Return what to measure of the result if the audit before is not available."""
        raise NotImplementedError

    def _command(self) -> Sequence[str]:
        """Return the command that repeats it."""
        raise NotImplementedError

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._seen = -1
        self.show_changes()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the audit once there is a result, and stopping while something runs."""
        if action == "audit":
            return self._making.result is not None
        return self._making.is_running_here if action == "stop" else True

    def _show_bindings(self) -> None:
        can_do = self._making.is_running_here, self._making.result is not None
        if can_do != self._could_do:  # refreshing the footer flickers
            self._could_do = can_do
            self.refresh_bindings()

    def _show_header(
        self, title: str, progress: Sequence[str], *, subject: str = "", remaining_s: float | None = None
    ) -> None:
        """Draw the header: what runs, how far it is, its time and memory, and how it stands.

        Args:
            title: the kind of run.
            progress: how far it is.
            subject: what it works on; left out if there is no room.
            remaining_s: at the last event.
        """
        making, idle_s = self._making, self._making.idle_s
        facts = [*progress, wording.duration(making.state.at_s + (idle_s if making.ending is None else 0.0))]
        if making.ending is None and remaining_s is not None:
            facts.append(f"~{wording.duration(max(0.0, remaining_s - idle_s))} left")
        memory = making.child.memory_bytes if making.child is not None and making.ending is None else None
        facts += [wording.byte_size(memory)] if memory else []
        shown, badge = "  ".join(facts), self._badge()
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" Quail ", style=palette.style(self.app, "accent", bold=True)).append(f" {title}  ", style="bold")
        room = self.size.width - text.cell_len - len(shown) - badge.cell_len - 6
        if subject and room >= 10:
            text.append(f"{printable(subject, limit=room)}  ")
        text.append(shown, style=palette.muted_style(self.app))
        text.append(" " * max(2, self.size.width - text.cell_len - badge.cell_len - 1))
        self.query_one("#header", Static).update(text.append_text(badge))

    def _stopped_text(self, colour: str = "error", kept: str = "") -> Text:
        """Say why there is no result, and what can be done; kept: what is left of it."""
        message, mend = why_it_stopped(self._making, self.KIND)
        style = palette.style(self.app, colour, bold=True)
        text = Text.assemble((" ■ STOPPED", style), f"  {printable(message)}\n")
        return text.append(f"   {printable(mend)}{kept}", style=palette.muted_style(self.app))

    def _badge(self) -> Text:
        stage = self._making.stage
        return {
            "finished": Text("✓ FINISHED", style=palette.style(self.app, "verdict-pass", bold=True)),
            "stopped": Text("■ STOPPED", style=palette.style(self.app, "error", bold=True)),
            "stopping": Text("◌ stopping", style=palette.style(self.app, "warning")),
        }.get(stage, Text(f"● {stage}", style=palette.style(self.app, "accent")))

    def _offer_text(self) -> Text:
        """Say what can be done with the result."""
        offer = "see before and after again" if self._after is not None else "audit it, and see before and after"
        return Text(f"   Press a to {offer}", style=palette.style(self.app, "accent", bold=True))

    def action_audit(self) -> None:
        """Audit the result as the audit before, and show both; without one, show the result alone."""
        from quail_audit.tui.screens.compare import CompareScreen

        result = self._making.result
        if result is None:
            self.quail.say("There is no result to audit yet")
            return
        request = self._before.request if self._before is not None else None
        if self._before is None or request is None:
            self.quail.start_audit(self._lone_request(result))
            return
        if self._after is None:
            self._after = self.quail.measure(request.model_copy(update={"unlearned": result.folder}))
        self.app.push_screen(CompareScreen(self._before, self._after))

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(shlex.join(self._command()))
        self.quail.say("Copied the command")
