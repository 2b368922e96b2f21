"""Show a cure: what it finds, how it ended, and the way to the audit of its result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports.text.cure import carried_line, fall_line, point_line, recipe_in_words, unit_line
from quail_audit.schema.events.common import CheckpointSaved
from quail_audit.schema.requests import AuditRequest, CarryRequest
from quail_audit.tui.form.choices import policy_here
from quail_audit.tui.live.cure import LiveCure
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.making import MakingScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.words.endings import CURE

MOST_LINES = 400  # the latest; the run's folder has all


class CureScreen(MakingScreen):
    """A carry, an attribution or a recipe.

    Args:
        cure: the cure.
        before: the audit that it is a cure of; None if that is not available.
    """

    KIND = CURE
    HELP = (
        "A running cure, layer by layer. When a carry is done, press a to audit its result and see before and after "
        "side by side. When an attribution is done, the audit's heat map shows it, and the recipe can be started."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "audit", "Audit the result", tooltip="Measure the result, and show before and after"),
        Binding("ctrl+x", "stop", "Stop", tooltip="Stop; what was found is kept", key_display="^x"),
        Binding("c", "copy", "Copy command", tooltip="Copy the command that repeats this cure"),
        Binding("escape", "back", "Back"),
    ]

    def __init__(self, cure: LiveCure, before: LiveRun | None) -> None:
        super().__init__(cure, before)
        self.cure = cure

    def compose(self) -> ComposeResult:
        yield Static(id="header")
        with VerticalScroll(id="found-so-far", classes="panel"):
            yield Static(id="lines", markup=False)
        yield Static(id="standing", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        panel = self.query_one("#found-so-far", VerticalScroll)
        panel.focus()
        panel.anchor()  # the latest line stays in sight until the reader scrolls
        self.show_changes()

    def show_changes(self) -> None:
        """See QuailScreen."""
        if self.cure.changes != self._seen:
            self._seen = self.cure.changes
            self.query_one("#found-so-far").border_title = printable(shlex.join(self.cure.command))
            self.query_one("#lines", Static).update(Text("\n".join(map(printable, self._lines()[-MOST_LINES:]))))
        carried = self.cure.state.carried
        progress = [f"{carried[-1].index} / {carried[-1].total}"] if carried else []
        self._show_header(self.cure.name.capitalize(), progress)
        self.query_one("#standing", Static).update(self._stage_text())
        self._show_bindings()

    # Drawing

    def _lines(self) -> list[str]:
        state = self.cure.state
        lines = [fall_line(state.attributed)] if state.attributed is not None else []
        lines += [unit_line(unit) for unit in state.units]
        lines += [point_line(point) for point in state.points]
        lines += [carried_line(layer) for layer in state.carried]
        return [*lines, *state.notes]

    def _stage_text(self) -> Text:
        stage = self.cure.stage
        if stage == "stopped":
            return self._stopped_text()
        if stage != "finished":
            doing = " opening the checkpoints" if not self._lines() else " at work"
            return Text(doing, style=palette.muted_style(self.app))
        text = Text.assemble((" ✓ FINISHED", palette.style(self.app, "verdict-pass", bold=True)))
        offer = palette.style(self.app, "accent", bold=True)
        state, result = self.cure.state, self.cure.result
        if result is not None:
            text.append(f"  the result is in {printable(result.folder)}\n")
            return text.append_text(self._offer_text())
        if state.chosen is not None:
            text.append(f"  {recipe_in_words(state.chosen.point)}\n")
            return text.append(f"   its configurations are in {printable(state.chosen.folder)}")
        if state.units:
            text.append("  m on the audit's heat map shows what each layer brings back\n")
            return text.append(
                "   Press Escape, then Ctrl+R on the recipe, to choose which layers to spare", style=offer
            )
        return text

    # Actions

    def action_stop(self) -> None:
        if self.cure.child is not None:
            self.cure.child.interrupt()
            self.quail.say("Stopping; what was found is kept")

    def _lone_request(self, result: CheckpointSaved) -> AuditRequest:
        """See MakingScreen. The audit is of weights only."""
        asked = self.cure.request
        assert isinstance(asked, CarryRequest)  # noqa: S101 - no other cure makes a checkpoint
        return AuditRequest(
            original=asked.original, unlearned=result.folder, schemes=(asked.scheme,), policy=policy_here() or None
        )

    def _command(self) -> Sequence[str]:
        return self.cure.command
