"""Export a run's report, or a picture of the screen, to a file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, RadioButton, RadioSet, Static

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import new_file
from quail_audit.tui.live.run import LiveRun

PICTURE = "svg"


class ExportKind(NamedTuple):
    """A kind of export.

    Attributes:
        title: its label in the list.
        ending: of its file.
    """

    title: str
    ending: str


KINDS: Mapping[str, ExportKind] = {  # the names of quail report --format, and the picture
    "text": ExportKind("text, as quail audit prints it", "txt"),
    "json": ExportKind("JSON: report.json", "json"),
    "html": ExportKind("HTML: one page for a reviewer", "html"),
    "markdown": ExportKind("Markdown: for a pull request", "md"),
    "junit": ExportKind("JUnit XML: for a CI's list of tests", "xml"),
    "sarif": ExportKind("SARIF: for code scanning", "sarif"),
    "csv": ExportKind("CSV of the layers", "csv"),
    "csv-metrics": ExportKind("CSV of what is known and kept", "csv"),
    "csv-samples": ExportKind("CSV of the samples", "csv"),
    "jsonl": ExportKind("JSON lines: the events", "jsonl"),
    PICTURE: ExportKind("SVG: a picture of the screen", "svg"),
}


class ExportScreen(ModalScreen[None]):
    """Asks what to write and where, then writes it. Never replaces a file.

    Args:
        run: whose report it is.
        picture: of the screen below this dialog, as SVG.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_export", "Cancel")]

    def __init__(self, run: LiveRun, picture: str) -> None:
        super().__init__()
        self._run = run
        self._picture = picture

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog close") as dialog:
            dialog.border_title = "Export"
            yield RadioSet(*(RadioButton(each.title, id=kind, value=kind == "text") for kind, each in KINDS.items()))
            yield Label("File, relative to the folder that the app was opened in")
            yield Input(id="path")
            yield Static("Enter writes it, Escape cancels", id="said", markup=False)

    def on_mount(self) -> None:
        self.query_one("#path", Input).value = self._suggested_path("text")
        self.query_one(RadioSet).focus()

    @on(RadioSet.Changed)
    def _suggest_path(self, event: RadioSet.Changed) -> None:
        self.query_one("#path", Input).value = self._suggested_path(self._kind)

    @property
    def _kind(self) -> str:
        pressed = self.query_one(RadioSet).pressed_button
        return next((kind for kind in KINDS if pressed is not None and pressed.id == kind), "text")

    def _suggested_path(self, kind: str) -> str:
        started = self._run.state.started
        name = started.run_id if started is not None else self._run.folder.name
        part = kind.removeprefix("csv") if kind.startswith("csv-") else ""
        return f"quail-{name}{part}.{KINDS[kind].ending}"

    @on(Input.Submitted)
    @work(exclusive=True)
    async def _write(self, event: Input.Submitted) -> None:
        """Write it in a thread: a page with samples reads all the events."""
        path = Path(event.value).expanduser()
        try:
            await asyncio.to_thread(self._write_file, path, self._kind)
        except FileExistsError:
            self._say(f"{path} already exists; name another file")
        except (OSError, ValueError, QuailError) as error:
            self._say(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
        else:
            self.app.notify(f"Wrote {path.absolute()}", markup=False)
            self.dismiss(None)

    def _say(self, message: str) -> None:
        self.query_one("#said", Static).update(printable(message))

    def _write_file(self, path: Path, kind: str) -> None:
        """Write all of it, or leave no file."""
        from quail_audit.reports.formats import write_report

        with new_file(path) as file:
            if kind == PICTURE:
                file.write(self._picture)
            else:
                write_report(self._run.state.report(), kind, file, self._run.folder)

    def action_dismiss_export(self) -> None:
        self.dismiss(None)
