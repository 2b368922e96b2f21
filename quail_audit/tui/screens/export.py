"""Export: the report of a run, or a picture of the screen below, to a file the reader names."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, RadioButton, RadioSet, Static

from quail_audit.tui.live_run import LiveRun

What = Literal["text", "json", "svg"]
KINDS: dict[What, str] = {
    "text": "report as text, as quail audit prints it",
    "json": "report as JSON (report.json)",
    "svg": "screenshot of the screen, as SVG",
}
TEXT_COLUMNS = 120


class ExportScreen(ModalScreen[None]):
    """Asks what and where to, then writes it. A file that exists is not replaced.

    Args:
        run: whose report it is.
        picture: of the screen below this dialogue, as SVG.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_export", "Cancel")]

    def __init__(self, run: LiveRun, picture: str) -> None:
        super().__init__()
        self._run = run
        self._picture = picture

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label("Export")
            yield RadioSet(*(RadioButton(text, id=kind, value=kind == "text") for kind, text in KINDS.items()))
            yield Label("to, from the folder that the app was opened in")
            yield Input(id="path")
            yield Static("Enter writes it, Escape cancels", id="said", markup=False)

    def on_mount(self) -> None:
        self.query_one("#path", Input).value = self._suggested("text")
        self.query_one(RadioSet).focus()

    @on(RadioSet.Changed)
    def _kind_changed(self, event: RadioSet.Changed) -> None:
        self.query_one("#path", Input).value = self._suggested(self._kind)

    @property
    def _kind(self) -> What:
        pressed = self.query_one(RadioSet).pressed_button
        return next((kind for kind in KINDS if pressed is not None and pressed.id == kind), "text")

    def _suggested(self, kind: What) -> str:
        started = self._run.state.started
        name = started.run_id if started is not None else self._run.folder.name
        endings: dict[What, str] = {"text": "txt", "json": "json", "svg": "svg"}
        return f"quail-{name}.{endings[kind]}"

    @on(Input.Submitted)
    def _write(self, event: Input.Submitted) -> None:
        path = Path(event.value).expanduser()
        try:
            content = self._content(self._kind)
            with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(content)
        except FileExistsError:
            self._say(f"{path} exists already; name another file")
        except (OSError, ValueError) as error:
            self._say(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
        else:
            self.app.notify(f"written: {path.absolute()}", markup=False)
            self.dismiss(None)

    def _say(self, message: str) -> None:
        self.query_one("#said", Static).update(message)

    def _content(self, kind: What) -> str:
        if kind == "svg":
            return self._picture
        report = self._run.state.report()
        if kind == "json":
            return report.model_dump_json(indent=2) + "\n"
        import io

        from rich.console import Console

        from quail_audit.reports.text import show

        stream = io.StringIO()
        show(report, Console(file=stream, highlight=False, width=TEXT_COLUMNS))
        return stream.getvalue()

    def action_dismiss_export(self) -> None:
        self.dismiss(None)
