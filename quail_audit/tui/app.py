"""The app: which screens there are, which runs it follows, and what holds everywhere. Never imports torch.

Data comes in one way: a run's process writes events, a thread reads them (feed.py), the app takes them a little at a
time (live_run.py), and the screen on top is asked to show what changed.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from quail_audit.core.errors import QuailError
from quail_audit.runs.attributions import CURES_FOLDER
from quail_audit.runs.folder import hold_stopped_run, read_request
from quail_audit.runs.names import RUNS_FOLDER, new_run_id
from quail_audit.schema.command_line import audit_arguments, resume_arguments, train_arguments
from quail_audit.schema.requests import (
    AttributeRequest,
    AuditRequest,
    CarryRequest,
    CureRequest,
    RecipeRequest,
    TrainRequest,
)
from quail_audit.tui.live.child import Child
from quail_audit.tui.live.cure import LiveCure
from quail_audit.tui.live.leash import GRACE_S
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.settings import Settings, load_settings, save_settings, user_themes_folder
from quail_audit.tui.theme.files import DEFAULT_THEME, QuailTheme, find_themes

if TYPE_CHECKING:
    from quail_audit.tui.live.followed import Followed

TAKES_PER_SECOND = 60
TAKE_BUDGET_S = 0.008  # of each of those, spent on events; the rest is for keys and drawing
DRAWS_PER_SECOND = 8


class QuailApp(App[None]):
    """Quail in a terminal.

    Args:
        run: a run's folder to open at once; None: the start screen.
    """

    TITLE = "Quail"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (160, "-wide")]  # noqa: RUF012 - Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help"),
        Binding("ctrl+l", "log", "Log", show=False),
        Binding("t", "change_theme", "Theme", show=False),
        Binding("ctrl+p", "command_palette", "Commands", tooltip="Every action by name"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(self, run: Path | None = None) -> None:
        super().__init__()
        self._first_run = run
        self.live_runs: dict[Path, LiveRun] = {}
        self.trainings: dict[Path, LiveTraining] = {}
        self.cures: dict[Path, LiveCure] = {}
        self.log_lines: list[str] = []  # what happened in this app, for the log view
        self.settings, problem = load_settings()
        self._problems = [problem] if problem else []
        self._drawn_s = 0.0
        self._register_themes()

    def _register_themes(self) -> None:
        themes, problems = find_themes(user_themes_folder())
        self._problems += [str(problem) for problem in problems]
        for name in list(self.available_themes):
            self.unregister_theme(name)
        for theme in themes:
            self.register_theme(theme.textual())
        chosen = self.settings.theme
        self.theme = chosen if chosen in self.available_themes else DEFAULT_THEME

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our own variables under themes that are not Quail's, and before there is one."""
        return QuailTheme(name=DEFAULT_THEME).variables()

    def on_mount(self) -> None:
        self.theme_changed_signal.subscribe(self, lambda _: self._theme_changed())
        self.set_interval(1 / TAKES_PER_SECOND, self._take)
        from quail_audit.tui.screens.start import StartScreen

        self.push_screen(StartScreen())
        if self._first_run is not None:
            self.open_run(self._first_run)
        for problem in self._problems:
            self.say(problem, severity="warning")

    def say(self, message: str, *, severity: str = "information") -> None:
        """Tell the reader something in passing, and keep it for the log. The text may be anybody's."""
        self.log_lines.append(f"{time.strftime('%H:%M:%S')}  {message}")
        self.notify(message, severity=severity, markup=False)  # type: ignore[arg-type]

    def _theme_changed(self) -> None:
        self.change_settings(theme=self.theme)
        for screen in self.screen_stack:
            if isinstance(screen, QuailScreen):
                screen.show_theme()

    def change_settings(self, **changes: object) -> None:
        """Keep something for the next time the app is opened."""
        self._keep(self.settings.changed(**changes))

    def _keep(self, settings: Settings) -> None:
        if settings != self.settings:
            self.settings = settings
            # In a thread: a disk may take its time, and a key must not wait for it.
            self.run_worker(self._save, thread=True, exclusive=True, group="settings")

    def _save(self) -> None:
        problem = save_settings(self.settings)
        if problem and problem not in self.log_lines:
            self.log_lines.append(problem)

    # Runs

    def start_audit(self, request: AuditRequest) -> None:
        """Measure in a process of its own, and show it."""
        self.open_run(self.measure(request).folder)

    def measure(self, request: AuditRequest) -> LiveRun:
        """Measure in a process of its own."""
        folder = (RUNS_FOLDER / new_run_id()).absolute()
        run = LiveRun(folder, self._start(audit_arguments(request, run_dir=folder)))
        self.live_runs[folder] = run
        return self.live_run(folder)

    def go_on(self, folder: Path) -> None:
        """Go on with an audit that was stopped, in a process of its own, and show it from its beginning."""
        path = folder.absolute()
        try:
            with hold_stopped_run(path):  # takes away how it ended, so that whoever follows waits for what comes
                pass
        except QuailError as error:
            self.say(str(error), severity="error")
            return
        self.live_runs.pop(path).close()
        self.live_runs[path] = LiveRun(path, self._start(resume_arguments(path)))
        self.pop_screen()
        self.open_run(path)

    def train(self, request: TrainRequest, *, given: Collection[str] = ()) -> LiveTraining:
        """Train in a process of its own; given: see train_arguments."""
        folder = (RUNS_FOLDER / new_run_id()).absolute()
        arguments = train_arguments(request, run_dir=folder, given=given)
        training = LiveTraining(folder, request, self._start(arguments))
        self.trainings[folder] = training
        return training

    def treat(self, command: Sequence[str], audited: Path) -> LiveCure:
        """Run a cure of an audit in a process of its own; what is measured of the audit itself goes into its folder."""
        _, name, *_ = command
        within = audited / CURES_FOLDER if name in ("attribute", "recipe") else RUNS_FOLDER
        folder = (within / f"{new_run_id()}-{name}").absolute()
        cure = LiveCure(folder, name, tuple(command), self._start([*command[1:], "--run-dir", str(folder)]))
        self.cures[folder] = cure
        return cure

    def _start(self, arguments: list[str]) -> Child:
        child = Child([*arguments, "--quiet"])
        self.log_lines.append(f"{time.strftime('%H:%M:%S')}  quail {shlex.join(child.arguments)}")
        return child

    def open_run(self, folder: Path) -> None:
        """Show an audit, a training or a cure: one that goes on, here or elsewhere, or one that is over."""
        request = read_request(folder)
        if isinstance(request, CarryRequest | AttributeRequest | RecipeRequest):
            self._open_cure(folder.absolute(), request)
            return
        if isinstance(request, TrainRequest):
            self._open_training(folder.absolute(), request)
            return
        from quail_audit.tui.screens.audit import AuditScreen

        self.push_screen(AuditScreen(self.live_run(folder)))

    def _open_cure(self, folder: Path, request: CureRequest) -> None:
        from quail_audit.tui.screens.cure import CureScreen

        if folder not in self.cures:
            self.cures[folder] = LiveCure(folder, request.cure)
        audited = request.report if isinstance(request, CarryRequest) else request.run
        is_there = audited is not None and isinstance(read_request(Path(audited)), AuditRequest)
        self.push_screen(CureScreen(self.cures[folder], self.live_run(Path(audited)) if audited and is_there else None))

    def _open_training(self, folder: Path, request: TrainRequest) -> None:
        from quail_audit.tui.screens.training import TrainingScreen

        if folder not in self.trainings:
            self.trainings[folder] = LiveTraining(folder, request)
        before = Path(request.report) if request.report is not None else None
        is_there = before is not None and isinstance(read_request(before), AuditRequest)
        self.push_screen(TrainingScreen(self.trainings[folder], self.live_run(before) if before and is_there else None))

    def live_run(self, folder: Path) -> LiveRun:
        """The run of a folder, followed from now on."""
        path = folder.absolute()
        if path not in self.live_runs:
            self.live_runs[path] = LiveRun(path)
        self._keep(self.settings.with_run(path))
        return self.live_runs[path]

    @property
    def followed(self) -> list[Followed]:
        """Everything whose events are taken in: audits, trainings and cures."""
        return [*self.live_runs.values(), *self.trainings.values(), *self.cures.values()]

    @property
    def running(self) -> list[Followed]:
        """Audits, trainings and cures whose process this app started and that are not over."""
        return [run for run in self.followed if run.is_running_here]

    def _take(self) -> None:
        if not self.is_running:  # shutting down, with screens half taken apart
            return
        followed = self.followed
        for run in followed:
            run.advance(TAKE_BUDGET_S / len(followed))
        screen = self.screen
        now_s = time.monotonic()
        is_due = now_s - self._drawn_s >= 1 / DRAWS_PER_SECOND
        if isinstance(screen, QuailScreen) and screen.is_mounted and is_due:
            self._drawn_s = now_s
            screen.show_changes()

    # Actions

    def action_help(self) -> None:
        from quail_audit.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen.of(self.screen))

    def action_log(self) -> None:
        from quail_audit.tui.screens.log import LogScreen

        if not isinstance(self.screen, LogScreen):
            self.push_screen(LogScreen(self.log_lines, self.followed))

    def action_leave(self) -> None:
        """Quit; where something still runs, ask first."""
        if not self.running:
            self.exit()
            return
        from quail_audit.tui.screens.confirm import ConfirmScreen

        if isinstance(self.screen, ConfirmScreen):
            return
        question = _quit_question(self.running)
        self.push_screen(ConfirmScreen(question, "Stop and quit"), lambda yes: self.exit() if yes else None)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action that has a key is in the palette too, by the words of the footer."""
        yield from super().get_system_commands(screen)
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.description and active.enabled:
                action, node = binding.action, active.node
                yield SystemCommand(
                    binding.description,
                    binding.tooltip or f"Key {self.get_key_display(binding)}",
                    lambda action=action, node=node: self.call_later(self.run_action, action, node),
                )

    async def on_unmount(self) -> None:
        for run in self.followed:
            run.close()


def _quit_question(running: Sequence[Followed]) -> str:
    """What quitting would end, and what is lost by it."""
    trains = any(isinstance(run, LiveTraining) for run in running)
    measures = any(isinstance(run, LiveRun) for run in running)
    if any(isinstance(run, LiveCure) for run in running) and not trains:
        return "A cure is still running. Stop it and quit? A checkpoint that it has not finished is lost."
    if not trains:
        return "An audit is still running. Stop it and quit? What it has measured is kept."
    what = "A training and an audit are" if measures else "A training is"
    return (
        f"{what} still running. Stop and quit? A training gets {GRACE_S:g} seconds to save where it is; "
        "to be sure of a checkpoint, stop it in its own screen first (Ctrl+X)."
    )
