"""Pick a run to compare with: the recent ones, those with the same layers first."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.reports.wording import STANDING_MARKS, duration, unjudged_mark
from quail_audit.runs.folder import RunSummary, list_runs, summarize_run
from quail_audit.runs.follow import replay
from quail_audit.runs.names import RUNS_FOLDER
from quail_audit.schema.events.audit import LayerMeasured, PairOpened
from quail_audit.verdict.checks import OUTCOME_OF

MOST_RUNS = 50


@dataclass(frozen=True)
class Candidate:
    """A run to compare with.

    Attributes:
        is_alike: it has the same layers.
    """

    summary: RunSummary
    is_alike: bool


class PickRunScreen(ModalScreen[Path | None]):
    """Lists the runs; returns a folder, or None.

    Args:
        run: the folder of the run to compare.
        recent: other folders to offer, beside those in the runs folder.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "cancel", "Cancel"),
        Binding("j", "move(1)", "Down", show=False),
        Binding("k", "move(-1)", "Up", show=False),
    ]

    def __init__(self, run: Path, recent: tuple[str, ...]) -> None:
        super().__init__()
        self._run = run
        self._recent = recent
        self._found: list[Candidate] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide", id="pick-run"):
            yield Label("Compare this run with which other? Enter chooses it, Escape goes back", markup=False)
            yield OptionList(id="runs")

    def on_mount(self) -> None:
        self.query_one("#runs").loading = True
        self._search()

    @work(thread=True, exit_on_error=False)
    def _search(self) -> None:
        """Search in a thread: the runs may be many, and on a slow disk."""
        found = candidates(self._run, self._recent)
        self.app.call_from_thread(self._show, found)

    def _show(self, found: list[Candidate]) -> None:
        self._found = found
        runs = self.query_one("#runs", OptionList)
        runs.loading = False
        now_s = time.time()
        runs.add_options([Option(_line(candidate, now_s)) for candidate in found])
        if found:
            runs.highlighted = 0
            runs.focus()
        else:
            runs.add_option(Option("There is no other run yet: audit another checkpoint first", disabled=True))

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._found[event.option_index].summary.folder)

    def action_cancel(self) -> None:
        self.dismiss(None)

    def action_move(self, lines: int) -> None:
        runs = self.query_one("#runs", OptionList)
        if lines > 0:
            runs.action_cursor_down()
        else:
            runs.action_cursor_up()


def candidates(run: Path, recent: tuple[str, ...]) -> list[Candidate]:
    """Return the other runs, those with the same layers first, then the last written first."""
    own = run.absolute()
    listed = list_runs(RUNS_FOLDER, limit=MOST_RUNS)
    summaries = {summary.folder.absolute(): summary for summary in listed}
    for folder in recent:
        path = Path(folder)
        if path.absolute() not in summaries and (summary := summarize_run(path)) is not None:
            summaries[path.absolute()] = summary
    names = first_layers(own)
    found = [
        Candidate(summary, is_alike=bool(names) and first_layers(folder) == names)
        for folder, summary in summaries.items()
        if folder != own
    ]
    return sorted(found, key=lambda candidate: (not candidate.is_alike, -candidate.summary.written_s))


def first_layers(folder: Path) -> tuple[object, ...]:
    """Read from a run's first events what tells its layers: the number of layers and weights, and the first name.

    Empty if it cannot be read."""
    facts: tuple[object, ...] = ()
    try:
        with closing(replay(folder)) as events:
            for event in events:
                if isinstance(event, PairOpened):
                    facts = (event.layers, event.weights)
                elif isinstance(event, LayerMeasured):
                    return (*facts, event.layer.name)
    except QuailError:
        return ()
    return ()


def _line(candidate: Candidate, now_s: float) -> Text:
    summary = candidate.summary
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{_outcome(summary):<15}")
    text.append(f"{duration(max(0.0, now_s - summary.written_s)):>9} ago  ")
    text.append("same layers   " if candidate.is_alike else "other layers  ")
    return text.append(f"{printable(summary.request.unlearned)}  {', '.join(summary.request.schemes)}")


def _outcome(summary: RunSummary) -> str:
    if summary.exit_code is None:
        return "● unfinished"
    if not summary.has_verdict:
        return unjudged_mark(summary.exit_code)
    return STANDING_MARKS[OUTCOME_OF.get(summary.exit_code, "not measured")]
