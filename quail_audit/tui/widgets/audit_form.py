"""Show the form of a new audit: its choices, what was found about each, the command.

The form also says if the audit can start.
"""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Input, Select, Static

from quail_audit.core.untrusted import printable
from quail_audit.schema.preflight import Answer, DevicesFound, Problem
from quail_audit.tui.form.choices import TITLES, Choices, Found, Readiness, readiness
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.choice import Choice
from quail_audit.tui.widgets.scheme_choice import SchemeChoices
from quail_audit.tui.words.findings import finding

PLACEHOLDERS = {
    "original": "the model before unlearning: a folder, or org/name",
    "unlearned": "the model after it, or a LoRA adapter on the original",
    "retrain": "optional: a model that never saw the forget set",
    "data": "optional: a folder in MUSE layout; without it, weights only",
    "policy": "optional: a TOML file; without it, the default limits",
}
PROMPT_FORMATS = {  # as --prompt-format takes them
    "auto": "auto: raw, and by template",
    "raw": "raw: as texts",
    "chat": "chat: by the template",
}
POPULATION_DIGITS = 10


class AuditForm(Vertical):
    """The fields of a new audit.

    Args:
        begun: the choices at first.
    """

    def __init__(self, begun: Choices, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self._begun = begun
        self.border_title = "New audit"

    def compose(self) -> ComposeResult:
        for topic, title in TITLES.items():
            ending = ".toml" if topic == "policy" else None
            yield Choice(topic, title, PLACEHOLDERS[topic], value=getattr(self._begun, topic), ending=ending)
        with Horizontal(id="how"):
            yield Static("Schemes", classes="choice-title")
            yield SchemeChoices(self._begun.schemes, id="schemes")
            yield Static("Device", id="device-title")
            yield self._device_select(self._begun.device)
        with Horizontal(id="asked"):
            yield Static("Questions", classes="choice-title")
            formats = [(title, name) for name, title in PROMPT_FORMATS.items()]
            yield Select(formats, value=self._begun.prompt_format, allow_blank=False, compact=True, id="prompt-format")
            yield Static("Items in all", id="population-title")
            yield Input(
                self._begun.population,
                placeholder="as the data says",
                restrict=r"[0-9]*",
                max_length=POPULATION_DIGITS,
                compact=True,
                id="population",
            )
        yield Static(id="command")
        with Horizontal(id="start-line"):
            yield Button("Start audit", id="start-button", variant="primary", compact=True)
            yield Static(id="readiness")

    def _device_select(self, device: str) -> Select[str]:
        names = dict.fromkeys(("auto", device))
        options = [(Text(printable(name, limit=40)), name) for name in names]
        return Select(options, value=device, allow_blank=False, compact=True, id="device")

    @property
    def choices(self) -> Choices:
        """The choices as they stand."""
        return Choices(
            **{topic: self.query_one(f"#{topic}", Input).value for topic in TITLES},
            schemes=self.query_one(SchemeChoices).chosen,
            device=str(self.query_one("#device", Select).value),
            prompt_format=str(self.query_one("#prompt-format", Select).value),
            population=self.query_one("#population", Input).value,
        )

    @property
    def choice_in_hand(self) -> Choice:
        """The choice that has the focus, or else the first."""
        focused = self.screen.focused
        choices = (node for node in focused.ancestors if isinstance(node, Choice)) if focused else iter(())
        return next(choices, None) or self.query(Choice).first()

    def focus_choice(self, topic: str = "") -> None:
        """Focus a choice; without a topic, the first checkpoint that is empty."""
        if topic == "schemes":
            self.query_one(SchemeChoices).children[0].focus()
            return
        if topic == "population":
            self.query_one("#population", Input).focus()
            return
        choices = self.choices
        empty = (name for name in ("original", "unlearned") if not getattr(choices, name).strip())
        self.query_one(f"#{topic if topic in TITLES else next(empty, 'original')}", Input).focus()

    def offer_devices(self, answer: Answer) -> None:
        """Offer the devices that were found; one that is chosen and not among them stays."""
        if not isinstance(answer, DevicesFound) or not answer.devices:
            return
        select = self.query_one("#device", Select)
        chosen = str(select.value)
        titles = {"auto": f"auto ({answer.devices[0].name})"}
        titles |= {device.name: f"{device.name}  {device.title}" for device in answer.devices}
        titles.setdefault(chosen, f"{chosen}  not here")
        select.set_options([(Text(printable(title, limit=60), no_wrap=True), name) for name, title in titles.items()])
        select.value = chosen
        # Select does not redraw a choice that stays the same, but its title may have changed.
        select.query_one("SelectCurrent #label", Static).update(Text(printable(titles[chosen], limit=60)))

    def show(self, found: Found) -> None:
        """Draw what was found about each choice, the command, and if the audit can start."""
        choices = self.choices
        for choice in self.query(Choice):
            choice.show(finding(found[choice.topic]) if choice.topic in found else None)
        command = Text("$ ", style=palette.muted_style(self.app), overflow="fold")
        command.append(printable(choices.command_line()), palette.style(self.app, "foreground"))
        self.query_one("#command", Static).update(command)
        ready = readiness(choices, found)
        is_empty = not (choices.original.strip() and choices.unlearned.strip())
        # An empty form is not wrong.
        is_wrong = isinstance(found.get(ready.blocked_by), Problem) or not is_empty
        self._show_readiness(ready, is_wrong=is_wrong)

    def _show_readiness(self, ready: Readiness, *, is_wrong: bool) -> None:
        self.query_one("#start-button", Button).disabled = bool(ready.blocked_by)
        mark, style = "✓", "success"
        if ready.blocked_by:
            mark, style = ("✗", "error") if is_wrong else ("→", "accent")
        elif ready.pending:
            mark, style = "…", "accent"
        line = printable(ready.line)
        text = Text(f"{mark} ", palette.style(self.app, style, bold=True), no_wrap=True, overflow="ellipsis")
        text.append(line, palette.style(self.app, style) if style == "error" else palette.muted_style(self.app))
        shown = self.query_one("#readiness", Static)
        shown.update(text)
        shown.tooltip = Text(line)

    def refresh_colours(self) -> None:
        """Draw again, in another theme's colours."""
        for choice in self.query(Choice):
            choice.refresh_colours()
