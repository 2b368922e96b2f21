"""Show one choice of the start screen: a field that completes paths, and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Button, Input, Static

from quail_audit.tui.form.choices import usable
from quail_audit.tui.form.folder_suggester import FolderSuggester
from quail_audit.tui.theme import palette
from quail_audit.tui.words.findings import Finding, Tone

STYLES: dict[Tone, str] = {"good": "success", "bad": "error", "open": "accent"}


class Choice(Vertical):
    """A labelled path or id.

    Args:
        topic: what it is: "original"; its field's id.
        title: its label.
        placeholder: what may be typed, shown while nothing is.
        value: the value at first.
        ending: of the files that it takes; None if it takes folders.
    """

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Type a path: → takes the completion, Ctrl+O opens a picker, ↑ and ↓ go from field to field.",
        "A checkpoint is a folder, or a Hugging Face id such as org/name or org/name@revision.",
        "Below a field: ✓ what was found, ✗ what is wrong and how to fix it, … what is not known yet.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "app.focus_next", "Next field", show=False),
        Binding("up", "app.focus_previous", "Previous field", show=False),
    ]

    class Browse(Message):
        """The reader wants to pick a folder or file for this choice."""

        def __init__(self, choice: Choice) -> None:
            self.choice = choice
            super().__init__()

    def __init__(self, topic: str, title: str, placeholder: str, *, value: str = "", ending: str | None = None) -> None:
        super().__init__(classes="choice")
        self.topic = topic
        self.title = title
        self.ending = ending
        self._placeholder = placeholder
        self._value = value
        self._finding: Finding | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(classes="choice-line"):
            yield Static(self.title, classes="choice-title", markup=False)
            yield Input(
                self._value,
                self._placeholder,
                id=self.topic,
                compact=True,
                select_on_focus=False,
                suggester=FolderSuggester(self.ending),
            )
            browse = Button("…", compact=True, classes="browse")
            browse.can_focus = False  # Ctrl+O does the same without a stop on every Tab
            browse.tooltip = "Pick a file (Ctrl+O)" if self.ending else "Pick a folder (Ctrl+O)"
            yield browse
        yield Static(classes="choice-finding")

    @property
    def value(self) -> str:
        return self.field.value

    @property
    def field(self) -> Input:
        return self.query_one(Input)

    def show(self, finding: Finding | None) -> None:
        """Show what was found; None: nothing is chosen."""
        if finding == self._finding:
            return
        self._finding = finding
        self.refresh_colours()

    def refresh_colours(self) -> None:
        """Draw again, in another theme's colours."""
        shown = self.query_one(".choice-finding", Static)
        if self._finding is None:
            shown.update("")
            shown.tooltip = None
            return
        tone, line = self._finding
        text = Text.assemble((f"{self._finding.mark} ", palette.style(self.app, STYLES[tone], bold=True)))
        text.append(line, style=palette.style(self.app, "error") if tone == "bad" else palette.muted_style(self.app))
        shown.update(text)
        shown.tooltip = Text(line)

    @on(Button.Pressed)
    def _browse(self, event: Button.Pressed) -> None:
        event.stop()
        self.post_message(Choice.Browse(self))

    def pick(self) -> None:
        """Open a picker; what is picked goes into the field."""
        from textual_fspicker import FileOpen, Filters, SelectDirectory

        def take(picked: Path | None) -> None:
            if picked is not None:
                self.field.value = _short(picked)
                self.field.cursor_position = len(self.field.value)
                self.field.focus()

        begin = where_to_pick(self.value)
        if self.ending is None:
            self.app.push_screen(SelectDirectory(begin, f"{self.title}: pick a folder"), take)
        else:
            filters = Filters(("TOML", lambda path: path.suffix == ".toml"), ("All", lambda _: True))
            self.app.push_screen(FileOpen(begin, f"{self.title}: pick a file", filters=filters), take)


def where_to_pick(value: str) -> Path:
    """Return where a picker opens: the folder of what is typed, or the nearest existing one above it."""
    try:
        path = Path(usable(value)).absolute()
        above = path.parents if usable(value) else (path,)
        return next(folder for folder in above if folder.is_dir())
    except (OSError, ValueError, StopIteration):
        return Path.cwd()


def _short(path: Path) -> str:
    """Return a picked path, relative if it is below the working folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)
