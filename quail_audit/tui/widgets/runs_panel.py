"""Show the recent runs, and look at their folders again from time to time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from quail_audit.tui.live.recent_runs import RecentRuns
from quail_audit.tui.widgets.runs_table import RunsTable

LOOK_AGAIN_S = 2.0  # while a run is going on
LOOK_AGAIN_QUIET_S = 10.0
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


class RunsPanel(Vertical):
    """The table of runs, or what to do if there is none."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self.border_title = "Recent runs"
        self._runs = RecentRuns()
        self._is_looking = False
        self._look_again_s = 0.0

    def compose(self) -> ComposeResult:
        table = RunsTable(id="runs")
        table.display = False
        yield table
        yield Static(id="no-runs", markup=False)

    def look_at_once(self) -> None:
        """Let the next call of look_again look, however little time has passed."""
        self._look_again_s = 0.0

    def look_again(self, remembered: Iterable[str | Path], *, is_running: bool, has_demo: bool) -> None:
        """Look at the runs' folders if it is time to.

        Args:
            remembered: folders of runs that were opened before.
            is_running: the app runs something, so that there is soon more to see.
            has_demo: the form holds the demo's pair.
        """
        if time.monotonic() >= self._look_again_s and not self._is_looking:
            self._is_looking = True
            self.run_worker(self._look(list(remembered), is_running, has_demo), group="runs")

    async def _look(self, remembered: list[str | Path], is_running: bool, has_demo: bool) -> None:
        """Look in a thread: the folders may be many, and on a slow disk."""
        try:
            runs = await asyncio.to_thread(self._runs.look, remembered)
        finally:
            self._is_looking = False
        running = sum(run.standing == "running" for run in runs)
        self._look_again_s = time.monotonic() + (LOOK_AGAIN_S if running or is_running else LOOK_AGAIN_QUIET_S)
        table = next(iter(self.query(RunsTable)), None)
        if table is None:  # the app was left meanwhile
            return
        table.display = bool(runs)
        table.show(runs, time.time())
        empty = self.query_one("#no-runs", Static)
        empty.display = not runs
        empty.update(NO_RUNS_BUT_THE_DEMO if has_demo else NO_RUNS)
        self.border_subtitle = f"{running} running" if running else f"{len(runs)} runs" if len(runs) > 1 else ""

    def refresh_colours(self) -> None:
        """Draw again, in another theme's colours or another width."""
        self.query_one(RunsTable).refresh_colours(time.time())
