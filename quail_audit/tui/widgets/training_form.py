"""Show the settings of a training as a form, one line each, with help or what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Label, Select

from quail_audit.tui.form.training_settings import (
    SET_BY_OBJECTIVE,
    SETTINGS,
    Chosen,
    Setting,
    objective_help,
    read_settings,
)


class TrainingForm(VerticalScroll, can_focus=False):
    """The fields; an empty one keeps the default that it shows.

    Args:
        values: what some fields begin with.
        schemes: to choose from.
    """

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "A faint value is the default, or the objective's own; it holds while nothing else is typed.",
        "Tab and Shift+Tab, or the arrow keys, go from field to field; Escape goes back to the layers.",
        "✗ marks a field that cannot be used; the line below says why when you are in it.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "app.focus_next", "Next field", show=False),
        Binding("up", "app.focus_previous", "Previous field", show=False),
    ]

    class Changed(Message):
        """A field has changed."""

    def __init__(self, values: Mapping[str, str], schemes: tuple[str, ...], *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes="panel")
        self._first = values
        self._schemes = schemes
        self.border_title = "Settings"

    def compose(self) -> ComposeResult:
        for setting in SETTINGS:
            with Horizontal(classes="setting"):
                yield Label(setting.label, id=f"label-{setting.name}", markup=False)
                yield self._field(setting)
                yield Label(setting.help, classes="aside", markup=False)

    def _field(self, setting: Setting) -> Widget:
        name, value = setting.name, self._first.get(setting.name, "")
        if setting.kind != "choice":
            return Input(value, placeholder=setting.default, id=name, compact=True, select_on_focus=False)
        choices = self._schemes if name == "scheme" else setting.choices
        chosen = value if value in choices else setting.default if name == "objective" else Select.NULL
        options = [(choice, choice) for choice in choices]
        return Select(
            options,
            prompt=setting.default,
            value=chosen,
            allow_blank=name not in ("objective", "scheme"),
            id=name,
            compact=True,
        )

    @property
    def typed(self) -> dict[str, str]:
        """The values typed or chosen, by the setting's name, without empty ones."""
        found = {}
        for setting in SETTINGS:
            field = self.query_one(f"#{setting.name}")
            value = field.value if isinstance(field, Input | Select) else ""
            if isinstance(value, str) and value:
                found[setting.name] = value
        return found

    @property
    def objective(self) -> str:
        return str(self.query_one("#objective", Select).value)

    def read(self) -> Chosen:
        """Read the fields as values or problems, and mark those that are wrong."""
        chosen = read_settings(self.typed)
        for setting in SETTINGS:
            is_wrong = setting.name in chosen.problems
            label = self.query_one(f"#label-{setting.name}", Label)
            label.update(f"✗ {setting.label}" if is_wrong else setting.label)
            label.set_class(is_wrong, "-wrong")
        return chosen

    def help_of(self, name: str, chosen: Chosen) -> tuple[str, str]:
        """Return what is wrong with a field, if anything, and its line of help."""
        setting = next(setting for setting in SETTINGS if setting.name == name)
        problem = chosen.problems.get(name, "")
        help_line = objective_help(self.objective) if name == "objective" else setting.help
        return (f"{setting.label.strip()} {problem}" if problem else ""), help_line

    @on(Input.Changed)
    @on(Select.Changed)
    def _post_change(self, event: Input.Changed | Select.Changed) -> None:
        event.stop()
        if event.control.id == "objective":
            self._show_defaults()
        self.post_message(TrainingForm.Changed())

    def _show_defaults(self) -> None:
        """Show in empty fields if the objective brings its own settings."""
        own = self.objective in SET_BY_OBJECTIVE
        for setting in SETTINGS:
            if setting.name in ("objective", "out", "data", "scheme"):
                continue
            shown = f"{self.objective}'s own" if own else setting.default
            field = self.query_one(f"#{setting.name}")
            if isinstance(field, Input):
                field.placeholder = shown
            elif isinstance(field, Select):
                field.prompt = shown
