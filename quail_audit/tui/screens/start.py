"""Show the start screen: what to audit, each choice checked at once, and the recent runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Button, Input, Select, Static

import quail_audit
from quail_audit.core.untrusted import printable
from quail_audit.schema.preflight import Answer, SchemesFound
from quail_audit.tui.form.checks import Checks
from quail_audit.tui.form.choices import DEMOS, TITLES, Choices, first_choices, readiness
from quail_audit.tui.form.preflight import Preflight
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.audit_form import AuditForm
from quail_audit.tui.widgets.choice import Choice
from quail_audit.tui.widgets.found import FoundView
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.runs_panel import RunsPanel
from quail_audit.tui.widgets.runs_table import RunsTable
from quail_audit.tui.widgets.scheme_choice import SchemeChoices

CHECK_AFTER_S = 0.3  # after the last key


class StartScreen(QuailScreen[None]):
    """The form, and the recent runs beside or below it."""

    HELP = (
        "Choose an original and an unlearned checkpoint and start an audit, or open an earlier run. Everything is "
        "checked while you choose; nothing is downloaded or measured before you start."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "start", "Start", tooltip="Start the audit, in a process of its own"),
        Binding("ctrl+o", "browse", "Browse", tooltip="Pick a folder for the current field"),
        Binding("f2", "found", "Details", tooltip="Everything that was found about the choices"),
        Binding("ctrl+y", "copy", "Copy command", tooltip="Copy the command that starts the same audit", show=False),
        Binding("escape", "runs", "Runs", tooltip="Go to the recent runs"),
        Binding("n", "form", "New audit", tooltip="Go to the form"),
        Binding("f1", "help", "Help", tooltip="Show the help, also from within a field"),
    ]

    class Answered(Message):
        """An answer about a topic has come."""

        def __init__(self, topic: str, answer: Answer) -> None:
            self.topic = topic
            self.answer = answer
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._due: dict[str, Timer] = {}
        self._is_drawn = False
        self._has_begun = False
        self._drawn_theme = ""
        self._preflight = Preflight(
            lambda topic, answer: self.post_message(StartScreen.Answered(topic, answer)),
            lambda note: self.quail.log_lines.append(f"{time.strftime('%H:%M:%S')}  {note}"),
        )
        self._checks = Checks(self._preflight, lambda: self.choices, self._draw)

    def compose(self) -> ComposeResult:
        yield Static(id="start-header")
        with VerticalScroll(id="start", can_focus=False):
            with Vertical(id="start-left"):
                yield AuditForm(first_choices(self.quail.settings), id="new-audit", classes="panel")
                with FoundView(id="found", classes="panel") as found:
                    found.border_title = "What was found"
            yield RunsPanel(id="runs-panel", classes="panel")
        yield KeyBar()

    def on_mount(self) -> None:
        self.action_form()
        self._is_drawn = True
        self._draw()

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """Check the choices after the first paint, unless a run was opened at once and the reader looks there."""
        if self.app.screen is not self:
            return
        self._runs.look_at_once()
        if not self._has_begun:
            self._has_begun = True
            self._checks.check_all()
        else:
            self._preflight.resume()

    async def on_unmount(self) -> None:
        await self._preflight.rest()

    @property
    def choices(self) -> Choices:
        """The choices as they stand in the form."""
        return self._form.choices

    @property
    def _form(self) -> AuditForm:
        return self.query_one(AuditForm)

    @property
    def _runs(self) -> RunsPanel:
        return self.query_one(RunsPanel)

    @on(Input.Changed)
    def _check_later(self, event: Input.Changed) -> None:
        topic = str(event.input.id)
        if topic not in TITLES:  # nothing to check but what was typed
            if self._is_drawn:
                self._draw()
            return
        if topic in self._due:
            self._due[topic].stop()
        if not self._has_begun:  # the first values are checked after the first paint
            return
        self._checks.discard(topic)
        self._due[topic] = self.set_timer(CHECK_AFTER_S, lambda: self._checks.check(topic))

    @on(SchemeChoices.Changed)
    @on(Select.Changed)
    def _show_choices(self) -> None:
        self._draw()

    @on(Input.Submitted)
    def _go_to_next(self, event: Input.Submitted) -> None:
        if event.input.id == list(TITLES)[-1]:
            self.action_start()
        else:
            self.focus_next()

    @on(Answered)
    async def _take_answer(self, event: Answered) -> None:
        if event.topic == "devices":
            self._form.offer_devices(event.answer)
            return
        if isinstance(event.answer, SchemesFound):
            await self.query_one(SchemeChoices).offer(event.answer.schemes)
        self._checks.keep(event.topic, event.answer)

    # Drawing

    def show_changes(self) -> None:
        """See QuailScreen."""
        if not self._is_drawn:  # called before there is anything to draw on
            return
        if self.app.theme != self._drawn_theme:
            self._drawn_theme = self.app.theme
            self._form.refresh_colours()
            self._draw()
            self._runs.refresh_colours()
        self._runs.look_again(
            [*self.quail.settings.recent_runs, *self.quail.live_runs],
            is_running=bool(self.quail.running),
            has_demo=Path(self.query_one("#original", Input).value).parent in DEMOS,
        )

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_resized)

    def _draw_resized(self) -> None:
        self._draw()
        self._runs.refresh_colours()

    def _draw(self) -> None:
        self._form.show(self._checks.found)
        self.query_one("#start-header", Static).update(self._header())
        if self.query_one("#found").display:
            self.query_one(FoundView).show(self._checks.found)

    def _header(self) -> Text:
        muted = palette.muted_style(self.app)
        return Text.assemble(
            (" Quail ", palette.style(self.app, "accent", bold=True)),
            (f"{quail_audit.__version__}   ", muted),
            ("does forgetting survive 4 bits?", muted),
            no_wrap=True,
            overflow="ellipsis",
        )

    # Actions

    def action_start(self) -> None:
        choices = self.choices
        ready = readiness(choices, self._checks.found)
        request = choices.request()
        if ready.blocked_by or request is None:
            self.quail.say(f"Not started: {ready.line}", severity="warning")
            self.action_form(ready.blocked_by)
            return
        self.quail.change_settings(**choices.fields_to_save())
        self.run_worker(self._preflight.rest())  # frees its memory for the audit
        self.quail.start_audit(request)

    @on(Button.Pressed, "#start-button")
    def _press_start(self) -> None:
        self.action_start()

    @on(RunsTable.Opened)
    def _open_run(self, event: RunsTable.Opened) -> None:
        self.quail.open_run(event.folder)

    @on(Choice.Browse)
    def _browse(self, event: Choice.Browse) -> None:
        event.choice.field.focus()
        event.choice.pick()

    def action_browse(self) -> None:
        self._form.choice_in_hand.pick()

    def action_found(self) -> None:
        from quail_audit.tui.screens.found import FoundScreen

        self.app.push_screen(FoundScreen(self._checks.found))

    def action_copy(self) -> None:
        line = self.choices.command_line()
        self.app.copy_to_clipboard(line)
        self.quail.say(f"Copied: {printable(line)}")

    def action_runs(self) -> None:
        table = self.query_one(RunsTable)
        if table.display:
            table.focus()
        else:
            self.query_one("#start-button").focus()

    def action_form(self, topic: str = "") -> None:
        """Go to a choice; without one, to the first that is empty."""
        self._form.focus_choice(topic)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the keys between form and runs only where they lead elsewhere."""
        in_runs = isinstance(self.focused, RunsTable)
        if action == "runs":
            return not in_runs
        in_field = isinstance(self.focused, Input)
        if action == "form":
            return not in_field
        if action == "help":  # elsewhere the app's own ? does it; a field takes that as text
            return in_field
        return True

    async def action_help(self) -> None:
        await self.run_action("app.help")
