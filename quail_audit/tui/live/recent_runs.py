"""Find the runs that the start screen lists: the working folder's, and those opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quail_audit.reports import wording
from quail_audit.runs.folder import RunSummary, list_runs, summarize_run
from quail_audit.runs.names import RUNS_FOLDER
from quail_audit.runs.writer import Writer
from quail_audit.schema.figures import Outcome
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.checks import OUTCOME_OF

MOST_RUNS = 50


class RecentRuns:
    """Looks at the folders of runs, again and again. Blocks, so it needs a thread.

    Args:
        runs_folder: where runs go by default.
    """

    def __init__(self, runs_folder: Path = RUNS_FOLDER) -> None:
        self._runs_folder = runs_folder
        # Kept between looks: a writer on another machine is gone if its heartbeat did not change in between.
        self._writers: dict[Path, Writer] = {}

    def look(self, remembered: Iterable[str | Path]) -> list[RecentRun]:
        """Return the runs, the last written first; each once, however it was remembered."""
        found: dict[Path, RunSummary] = {
            summary.folder.absolute(): summary for summary in list_runs(self._runs_folder, limit=MOST_RUNS)
        }
        for path in map(Path, remembered):
            if path not in found and (summary := summarize_run(path)) is not None:
                found[path] = summary
        runs = [
            RecentRun(folder, summary.request, self._outcome_of(folder, summary), summary.exit_code, summary.written_s)
            for folder, summary in found.items()
        ]
        return sorted(runs, key=lambda run: run.written_s, reverse=True)[:MOST_RUNS]

    def _outcome_of(self, folder: Path, summary: RunSummary) -> RunOutcome:
        if summary.exit_code is not None:
            if summary.has_verdict:
                return OUTCOME_OF.get(summary.exit_code, "not measured")
            return wording.unjudged_reason(summary.exit_code)
        writer = self._writers.setdefault(folder, Writer(folder))
        return "running" if writer.is_alive() else "stopped"


RunOutcome = Outcome | wording.Unjudged | Literal["running", "not measured"]


@dataclass(frozen=True)
class RecentRun:
    """A run as the table shows it.

    Attributes:
        folder: of the run, absolute.
        request: what was asked for.
        standing: how it ended, or that it is running.
        exit_code: None if it is running or was killed.
        written_s: when it last wrote an event, in seconds since the epoch.
    """

    folder: Path
    request: AuditRequest
    standing: RunOutcome
    exit_code: int | None
    written_s: float
