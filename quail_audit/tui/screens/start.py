"""The start screen: what to audit, each choice checked as it is made, and the runs there are."""

from __future__ import annotations

import asyncio
import shlex
import time
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Button, Input, Select, Static

import quail_audit
from quail_audit.core.untrusted import printable
from quail_audit.schema.command_line import audit_arguments
from quail_audit.schema.preflight import (
    AboutCheckpoint,
    AboutData,
    AboutDevices,
    AboutPair,
    AboutPolicy,
    AboutSchemes,
    Answer,
    CheckpointFound,
    DevicesFound,
    Problem,
    Question,
    SchemesFound,
)
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.form.choices import (
    DEMOS,
    TITLES,
    Choices,
    Readiness,
    choices_to_begin_with,
    is_text,
    is_whole,
    named_policy,
    not_text,
    readiness,
    usable,
)
from quail_audit.tui.form.preflight import Preflight
from quail_audit.tui.live.recent_runs import RecentRuns
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.choice import Choice
from quail_audit.tui.widgets.found import FoundView
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.runs_table import RunsTable
from quail_audit.tui.widgets.scheme_choice import SchemeChoices
from quail_audit.tui.words.findings import finding

CHECK_AFTER_S = 0.3  # without a key
LOOK_AGAIN_S = 2.0  # at the runs, while one goes on; a quiet folder is looked at less often
LOOK_AGAIN_QUIET_S = 10.0
CHECKPOINTS = ("original", "unlearned", "retrain")
PLACEHOLDERS = {
    "original": "the model before unlearning: a folder, or org/name",
    "unlearned": "the model after it, or a LoRA adapter on the original",
    "retrain": "optional: a model that never saw the forget set",
    "data": "optional: a folder in MUSE layout; without it, weights only",
    "policy": "optional: a TOML file; without it, the default limits",
}
NO_RUNS = (
    "No audit has been run here yet.\n\n"
    "Name an original and an unlearned checkpoint and press Ctrl+R.\n"
    "New to Quail? Leave with Ctrl+Q and run  quail demo : it builds a small model\n"
    "that seems to forget, in about two minutes, and Quail finds it filled in here."
)
NO_RUNS_BUT_THE_DEMO = (
    "No audit has been run here yet.\n\n"
    "The demo's pair is filled in: a small model that seems to forget.\n"
    "Press Ctrl+R and see what comes back at 4 bits."
)


class StartScreen(QuailScreen[None]):
    """A form on the left or on top, the runs beside or below it."""

    HELP = (
        "Choose an original and an unlearned checkpoint and start an audit, or open a run there is. Everything is "
        "checked while you choose; nothing is downloaded or measured before you start."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "start", "Start", tooltip="Measure, in a process of its own"),
        Binding("ctrl+o", "browse", "Browse", tooltip="Pick a folder for the field in hand"),
        Binding("f2", "found", "Details", tooltip="Everything that was found about the choices"),
        Binding("ctrl+y", "copy", "Copy command", tooltip="Copy the command line that does the same", show=False),
        Binding("escape", "runs", "Runs", tooltip="From the form to the recent runs"),
        Binding("n", "form", "New audit", tooltip="From the recent runs to the form"),
        Binding("f1", "help", "Help", tooltip="The help, from within a field too"),
    ]

    class Answered(Message):
        """Something was found out about a topic."""

        def __init__(self, topic: str, answer: Answer) -> None:
            self.topic = topic
            self.answer = answer
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[str, Answer | None] = {}
        self._due: dict[str, Timer] = {}
        self._is_drawn = False
        self._has_begun = False
        self._runs = RecentRuns()
        self._is_looking = False
        self._look_again_s = 0.0
        self._pair_asked: Question | None = None
        self._drawn_theme = ""
        self._preflight = Preflight(
            self._hand_over,
            lambda said: self.quail.log_lines.append(f"{time.strftime('%H:%M:%S')}  {said}"),
        )

    def compose(self) -> ComposeResult:
        begun = choices_to_begin_with(self.quail.settings)
        yield Static(id="start-header")
        with VerticalScroll(id="start", can_focus=False):
            with Vertical(id="start-left"):
                with Vertical(id="new-audit", classes="panel") as form:
                    form.border_title = "New audit"
                    for topic, title in TITLES.items():
                        ending = ".toml" if topic == "policy" else None
                        value = getattr(begun, topic)
                        yield Choice(topic, title, PLACEHOLDERS[topic], value=value, ending=ending)
                    with Horizontal(id="how"):
                        yield Static("Schemes", classes="choice-title")
                        yield SchemeChoices(begun.schemes, id="schemes")
                        yield Static("Device", id="device-title")
                        yield self._device_select(begun.device)
                    yield Static(id="command")
                    with Horizontal(id="start-line"):
                        yield Button("Start audit", id="start-button", variant="primary", compact=True)
                        yield Static(id="readiness")
                with FoundView(id="found", classes="panel") as found:
                    found.border_title = "What was found"
            with Vertical(id="runs-panel", classes="panel") as runs:
                runs.border_title = "Recent runs"
                yield RunsTable(id="runs")
                yield Static(id="no-runs", markup=False)
        yield KeyBar()

    def _device_select(self, device: str) -> Select[str]:
        names = dict.fromkeys(("auto", device))
        options = [(Text(printable(name, limit=40)), name) for name in names]
        return Select(options, value=device, allow_blank=False, compact=True, id="device")

    def on_mount(self) -> None:
        self.query_one("#runs").display = False
        self.query_one(f"#{self._first_empty()}", Input).focus()
        self._is_drawn = True
        self._draw()

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """After the first paint, and only where the reader looks: a run that was opened at once needs no checks."""
        if self.app.screen is not self:
            return
        self._look_again_s = 0.0
        if not self._has_begun:
            self._has_begun = True
            self._preflight.ask("schemes", AboutSchemes())
            for topic in TITLES:
                self._check(topic)
            self._preflight.ask("devices", AboutDevices())
        else:
            self._preflight.go_on()

    async def on_unmount(self) -> None:
        await self._preflight.rest()

    def _first_empty(self) -> str:
        return next((topic for topic in ("original", "unlearned") if not self._value(topic).strip()), "original")

    # What is chosen

    @property
    def choices(self) -> Choices:
        """As they stand in the form."""
        return Choices(
            **{topic: self._value(topic) for topic in TITLES},
            schemes=self.query_one(SchemeChoices).chosen,
            device=str(self.query_one("#device", Select).value),
        )

    def _value(self, topic: str) -> str:
        return self.query_one(f"#{topic}", Input).value

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        topic = str(event.input.id)
        if topic in self._due:
            self._due[topic].stop()
        if not self._has_begun:  # the values to begin with: asked after the first paint
            return
        self._preflight.forget(topic)
        if event.value.strip():
            self._set(topic, None)
        else:
            self._clear(topic)
        self._due[topic] = self.set_timer(CHECK_AFTER_S, lambda: self._check(topic))

    @on(SchemeChoices.Changed)
    @on(Select.Changed)
    def _how_changed(self) -> None:
        self._draw()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        if event.input.id == list(TITLES)[-1]:
            self.action_start()
        else:
            self.focus_next()

    # What is found

    def _check(self, topic: str) -> None:
        value = usable(self._value(topic))
        if not value:
            self._preflight.forget(topic)
            self._clear(topic)
        elif not is_text(value):
            self._preflight.forget(topic)
            self._set(topic, not_text(value))
        else:
            self._preflight.ask(topic, self._question(topic, value))
            self._set(topic, None)
        if topic == "original":  # what it does and what its labels are decides whether the data fits
            if usable(self._value("data")):
                self._check("data")
            # an adapter is looked at together with it
            for other in ("unlearned", "retrain"):
                if other in self._found and not is_whole(self._found[other]):
                    self._check(other)

    def _question(self, topic: str, value: str) -> Question:
        if topic == "policy":
            return AboutPolicy(file=named_policy(value))
        base = usable(self._value("original")) if topic != "original" else ""
        if topic == "data":
            return AboutData(folder=value, checkpoint=base if is_text(base) and base else None)
        return AboutCheckpoint(source=value, base=base or None)

    def _hand_over(self, topic: str, answer: Answer) -> None:
        self.post_message(StartScreen.Answered(topic, answer))

    @on(Answered)
    async def _answered(self, event: Answered) -> None:
        if isinstance(event.answer, SchemesFound):
            await self.query_one(SchemeChoices).offer(event.answer.schemes)
            self._found[event.topic] = event.answer
            self._draw()
        elif event.topic == "devices":
            self._offer_devices(event.answer)
        else:
            self._set(event.topic, event.answer)

    def _set(self, topic: str, answer: Answer | None) -> None:
        """Keep what is known of a topic; None while it is looked at."""
        self._found[topic] = answer
        self._changed(topic)

    def _clear(self, topic: str) -> None:
        """Nothing is chosen there."""
        self._found.pop(topic, None)
        self._changed(topic)

    def _changed(self, topic: str) -> None:
        if topic in CHECKPOINTS:
            self._check_pair()
        self._draw()

    def _check_pair(self) -> None:
        """Ask whether they fit once every checkpoint has been looked at and none is left to be fetched."""
        chosen = [topic for topic in CHECKPOINTS if self._value(topic).strip()]
        asked: Question | None = None
        if {"original", "unlearned"} <= set(chosen) and all(
            isinstance(self._found.get(topic), CheckpointFound) for topic in chosen
        ):
            request = self.choices.request()
            if request is not None:
                asked = AboutPair(original=request.original, unlearned=request.unlearned, retrain=request.retrain)
        if asked == self._pair_asked and asked is not None:
            return
        self._pair_asked = asked
        if asked is None:
            self._preflight.forget("pair")
            self._found.pop("pair", None)
        else:
            self._preflight.ask("pair", asked)
            self._found["pair"] = None

    def _offer_devices(self, answer: Answer) -> None:
        if not isinstance(answer, DevicesFound) or not answer.devices:
            return
        select = self.query_one("#device", Select)
        chosen = str(select.value)
        titles = {"auto": f"auto ({answer.devices[0].name})"}
        titles |= {device.name: f"{device.name}  {device.title}" for device in answer.devices}
        titles.setdefault(chosen, f"{chosen}  not here")
        select.set_options([(Text(printable(title, limit=60), no_wrap=True), name) for name, title in titles.items()])
        select.value = chosen
        # The choice is the same, and so not drawn again; its title may be another.
        select.query_one("SelectCurrent #label", Static).update(
            Text(printable(titles[chosen], limit=60))
        )  # it may be the same choice

    # What is shown

    def show_changes(self) -> None:
        """See QuailScreen."""
        if not self._is_drawn:  # asked before there is anything to draw on
            return
        if self.app.theme != self._drawn_theme:
            self._drawn_theme = self.app.theme
            for choice in self.query(Choice):
                choice.refresh_colours()
            self._draw()
            self.query_one(RunsTable).refresh_colours(time.time())
        now_s = time.monotonic()
        if now_s >= self._look_again_s and not self._is_looking:
            self._is_looking = True
            self.run_worker(self._look(), group="runs")

    def on_resize(self) -> None:
        self.call_after_refresh(self._resized)

    def _resized(self) -> None:
        self._draw()
        self.query_one(RunsTable).refresh_colours(time.time())

    def _draw(self) -> None:
        choices = self.choices
        for choice in self.query(Choice):
            known = choice.topic in self._found
            choice.show(finding(self._found[choice.topic]) if known else None)
        self.query_one("#start-header", Static).update(self._header())
        self.query_one("#command", Static).update(self._command(choices))
        self._draw_readiness(readiness(choices, self._found))
        if self.query_one("#found").display:
            self.query_one(FoundView).show(self._found)

    def _header(self) -> Text:
        muted = palette.muted(self.app)
        return Text.assemble(
            (" Quail ", palette.style(self.app, "accent", bold=True)),
            (f"{quail_audit.__version__}   ", muted),
            ("does forgetting survive 4 bits?", muted),
            no_wrap=True,
            overflow="ellipsis",
        )

    def _draw_readiness(self, ready: Readiness) -> None:
        self.query_one("#start-button", Button).disabled = bool(ready.blocked_by)
        mark, style = ("✗", "error") if ready.blocked_by else ("…", "accent") if ready.pending else ("✓", "success")
        if ready.blocked_by and not isinstance(self._found.get(ready.blocked_by), Problem) and self._is_empty():
            mark, style = "→", "accent"  # nothing is wrong with a form nobody has filled in
        said = Text(f"{mark} ", palette.style(self.app, style, bold=True), no_wrap=True, overflow="ellipsis")
        said.append(
            printable(ready.said), palette.muted(self.app) if style != "error" else palette.style(self.app, style)
        )
        shown = self.query_one("#readiness", Static)
        shown.update(said)
        shown.tooltip = Text(printable(ready.said))

    def _is_empty(self) -> bool:
        return not (self._value("original").strip() and self._value("unlearned").strip())

    def _command(self, choices: Choices) -> Text:
        muted = palette.muted(self.app)
        text = Text("$ ", style=muted, overflow="fold")
        line = command_line(choices)
        text.append(printable(line) if line else "", palette.style(self.app, "foreground"))
        return text

    async def _look(self) -> None:
        """At the runs' folders, in a thread: they may be many, and far."""
        try:
            remembered: list[str | Path] = [*self.quail.settings.recent_runs, *self.quail.live_runs]
            runs = await asyncio.to_thread(self._runs.look, remembered)
        finally:
            self._is_looking = False
        going_on = sum(run.standing == "running" for run in runs)
        self._look_again_s = time.monotonic() + (LOOK_AGAIN_S if going_on or self.quail.running else LOOK_AGAIN_QUIET_S)
        table = next(iter(self.query(RunsTable)), None)
        if table is None:  # the app was left meanwhile
            return
        table.display = bool(runs)
        table.show(runs, time.time())
        empty = self.query_one("#no-runs", Static)
        empty.display = not runs
        empty.update(NO_RUNS_BUT_THE_DEMO if Path(self._value("original")).parent in DEMOS else NO_RUNS)
        panel = self.query_one("#runs-panel")
        panel.border_subtitle = f"{going_on} running" if going_on else f"{len(runs)} runs" if len(runs) > 1 else ""

    # Actions

    def action_start(self) -> None:
        choices = self.choices
        ready = readiness(choices, self._found)
        request = choices.request()
        if ready.blocked_by or request is None:
            self.quail.say(f"Not started: {ready.said}", severity="warning")
            self.action_form(ready.blocked_by)
            return
        self.quail.change_settings(**choices.to_remember())
        self.run_worker(self._preflight.rest())  # its memory is the audit's now
        self.quail.start_audit(request)

    @on(Button.Pressed, "#start-button")
    def _start_pressed(self) -> None:
        self.action_start()

    @on(RunsTable.Opened)
    def _open(self, event: RunsTable.Opened) -> None:
        self.quail.open_run(event.folder)

    @on(Choice.Browse)
    def _browse_clicked(self, event: Choice.Browse) -> None:
        event.choice.field.focus()
        self._pick(event.choice)

    def action_browse(self) -> None:
        focused = self.focused
        choice = next((node for node in focused.ancestors if isinstance(node, Choice)), None) if focused else None
        self._pick(choice or self.query(Choice).first())

    def _pick(self, choice: Choice) -> None:
        from textual_fspicker import FileOpen, Filters, SelectDirectory

        def take(picked: Path | None) -> None:
            if picked is not None:
                choice.field.value = _short(picked)
                choice.field.cursor_position = len(choice.field.value)
                choice.field.focus()

        begin = where_to_pick(choice.value)
        if choice.ending is None:
            self.app.push_screen(SelectDirectory(begin, f"{choice.title}: pick a folder"), take)
        else:
            filters = Filters(("TOML", lambda path: path.suffix == ".toml"), ("All", lambda _: True))
            self.app.push_screen(FileOpen(begin, f"{choice.title}: pick a file", filters=filters), take)

    def action_found(self) -> None:
        from quail_audit.tui.screens.found import FoundScreen

        self.app.push_screen(FoundScreen(self._found))

    def action_copy(self) -> None:
        line = command_line(self.choices)
        self.app.copy_to_clipboard(line)
        self.quail.say(f"Copied: {printable(line)}")

    def action_runs(self) -> None:
        table = self.query_one(RunsTable)
        if table.display:
            table.focus()
        else:
            self.query_one("#start-button").focus()

    def action_form(self, topic: str = "") -> None:
        """To a choice; without one, to the first that is empty."""
        if topic == "schemes":
            self.query_one(SchemeChoices).children[0].focus()
        else:
            self.query_one(f"#{topic if topic in TITLES else self._first_empty()}", Input).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys that go from the form to the runs and back are shown where they do."""
        in_runs = isinstance(self.focused, RunsTable)
        if action == "runs":
            return not in_runs
        in_field = isinstance(self.focused, Input)
        if action == "form":
            return not in_field
        if action == "help":  # elsewhere the app's own key, which a field takes as text, does it
            return in_field
        return True

    def action_help(self) -> None:
        self.quail.action_help()


def command_line(choices: Choices) -> str:
    """What does the same outside the app; words in capitals stand for what is not chosen yet."""
    request = choices.request()
    if request is None:
        return ""
    named = request.model_copy(
        update={"original": request.original or "ORIGINAL", "unlearned": request.unlearned or "UNLEARNED"}
    )
    return shlex.join(["quail", *audit_arguments(AuditRequest.model_validate(named.model_dump()))])


def where_to_pick(value: str) -> Path:
    """Where a picker opens: in the folder that holds what is typed, or the nearest one above it that there is."""
    try:
        path = Path(usable(value)).absolute()
        above = path.parents if usable(value) else (path,)
        return next(folder for folder in above if folder.is_dir())
    except (OSError, ValueError, StopIteration):
        return Path.cwd()


def _short(path: Path) -> str:
    """A picked path, relative where it is below the folder the app was opened in."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)
