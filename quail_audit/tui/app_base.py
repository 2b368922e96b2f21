"""Define what a screen may ask of the app: start runs, keep settings, show messages."""

from __future__ import annotations

import shlex
import time
from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import App

from quail_audit.core.errors import QuailError
from quail_audit.runs.attributions import CURES_FOLDER
from quail_audit.runs.folder import hold_stopped_run
from quail_audit.runs.names import RUNS_FOLDER, new_run_id
from quail_audit.schema.command_line import audit_arguments, resume_arguments, train_arguments
from quail_audit.schema.requests import AuditRequest, TrainRequest
from quail_audit.tui.live.child import Child
from quail_audit.tui.live.cure import LiveCure
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.settings import Settings, load_settings, save_settings

if TYPE_CHECKING:
    from quail_audit.tui.live.followed import Followed


class AppBase(App[None]):
    """The app, as its screens know it."""

    def __init__(self) -> None:
        super().__init__()
        self.live_runs: dict[Path, LiveRun] = {}
        self.trainings: dict[Path, LiveTraining] = {}
        self.cures: dict[Path, LiveCure] = {}
        self.log_lines: list[str] = []  # what happened in this app, for the log view
        self.settings, problem = load_settings()
        self._problems = [problem] if problem else []

    @abstractmethod
    def open_run(self, folder: Path) -> None:
        """Show an audit, a training or a cure, whether it is still running, here or elsewhere, or over."""

    def say(self, message: str, *, severity: str = "information") -> None:
        """Show a message for a moment, and keep it for the log. The text may be untrusted."""
        self.log_lines.append(f"{time.strftime('%H:%M:%S')}  {message}")
        self.notify(message, severity=severity, markup=False)  # type: ignore[arg-type]

    def change_settings(self, **changes: object) -> None:
        """Save settings for the next start of the app."""
        self._keep_settings(self.settings.with_changes(**changes))

    def _keep_settings(self, settings: Settings) -> None:
        if settings != self.settings:
            self.settings = settings
            # In a thread, so that no key waits for a slow disk.
            self.run_worker(self._save_settings, thread=True, exclusive=True, group="settings")

    def _save_settings(self) -> None:
        problem = save_settings(self.settings)
        if problem and problem not in self.log_lines:
            self.log_lines.append(problem)

    def start_audit(self, request: AuditRequest) -> None:
        """Start an audit in its own process, and show it."""
        self.open_run(self.measure(request).folder)

    def measure(self, request: AuditRequest) -> LiveRun:
        """Start an audit in its own process."""
        folder = (RUNS_FOLDER / new_run_id()).absolute()
        run = LiveRun(folder, self._start_command(audit_arguments(request, run_dir=folder)))
        self.live_runs[folder] = run
        return self.live_run(folder)

    def resume(self, folder: Path) -> None:
        """Resume a stopped audit in its own process, and show it from its beginning."""
        path = folder.absolute()
        try:
            with hold_stopped_run(path):  # removes its ending, so that followers wait for more events
                pass
        except QuailError as error:
            self.say(str(error), severity="error")
            return
        self.live_runs.pop(path).close()
        self.live_runs[path] = LiveRun(path, self._start_command(resume_arguments(path)))
        self.pop_screen()
        self.open_run(path)

    def train(self, request: TrainRequest, *, given: Collection[str] = ()) -> LiveTraining:
        """Start a training in its own process; given: see train_arguments."""
        folder = (RUNS_FOLDER / new_run_id()).absolute()
        arguments = train_arguments(request, run_dir=folder, given=given)
        training = LiveTraining(folder, request, self._start_command(arguments))
        self.trainings[folder] = training
        return training

    def treat(self, command: Sequence[str], audited: Path) -> LiveCure:
        """Start a cure of an audit in its own process; measurements of the audit itself go into its folder."""
        _, name, *_ = command
        within = audited / CURES_FOLDER if name in ("attribute", "recipe") else RUNS_FOLDER
        folder = (within / f"{new_run_id()}-{name}").absolute()
        cure = LiveCure(folder, name, tuple(command), self._start_command([*command[1:], "--run-dir", str(folder)]))
        self.cures[folder] = cure
        return cure

    def _start_command(self, arguments: list[str]) -> Child:
        child = Child([*arguments, "--quiet"])
        self.log_lines.append(f"{time.strftime('%H:%M:%S')}  quail {shlex.join(child.arguments)}")
        return child

    def live_run(self, folder: Path) -> LiveRun:
        """Return the run of a folder, followed from now on."""
        path = folder.absolute()
        if path not in self.live_runs:
            self.live_runs[path] = LiveRun(path)
        self._keep_settings(self.settings.with_run(path))
        return self.live_runs[path]

    @property
    def followed(self) -> list[Followed]:
        """The audits, trainings and cures whose events are taken in."""
        return [*self.live_runs.values(), *self.trainings.values(), *self.cures.values()]

    @property
    def running(self) -> list[Followed]:
        """The audits, trainings and cures that this app started and that are still running."""
        return [run for run in self.followed if run.is_running_here]
