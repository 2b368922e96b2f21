"""Run the app: open screens, take in the events of runs, hold the keys for everywhere.

A run's process writes events, a thread reads them (live/feed.py), the app takes them in a little at a time
(live/run.py), and the screen on top draws what changed. Never imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from quail_audit.runs.folder import read_request
from quail_audit.schema.requests import (
    AttributeRequest,
    AuditRequest,
    CarryRequest,
    CureRequest,
    RecipeRequest,
    TrainRequest,
)
from quail_audit.tui.app_base import AppBase
from quail_audit.tui.live.cure import LiveCure
from quail_audit.tui.live.leash import GRACE_S
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.settings import user_themes_folder
from quail_audit.tui.theme.files import DEFAULT_THEME, QuailTheme, find_themes

if TYPE_CHECKING:
    from quail_audit.tui.live.followed import Followed

TAKES_PER_SECOND = 60
TAKE_BUDGET_S = 0.008  # of each of those, spent on events; the rest is for keys and drawing
DRAWS_PER_SECOND = 8
# In this order: of two rules that weigh the same, the later counts.
STYLES = ("base", "audit", "start", "samples", "layer", "cures", "retrain", "training", "compare", "dialogs")


class QuailApp(AppBase):
    """Quail in a terminal.

    Args:
        run: a run's folder to open at once; None: the start screen.
    """

    TITLE = "Quail"
    CSS_PATH: ClassVar[list[str | PurePath]] = [f"styles/{name}.tcss" for name in STYLES]
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
        self._drawn_s = 0.0
        self._register_themes()

    def _register_themes(self) -> None:
        themes, problems = find_themes(user_themes_folder())
        self._problems += [str(problem) for problem in problems]
        for name in list(self.available_themes):
            self.unregister_theme(name)
        for theme in themes:
            self.register_theme(theme.as_textual())
        chosen = self.settings.theme
        self.theme = chosen if chosen in self.available_themes else DEFAULT_THEME

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Return the variables for themes that are not Quail's, and for before a theme is set."""
        return QuailTheme(name=DEFAULT_THEME).variables()

    def on_mount(self) -> None:
        self.theme_changed_signal.subscribe(self, lambda _: self._follow_theme())
        self.set_interval(1 / TAKES_PER_SECOND, self._take_events)
        from quail_audit.tui.screens.start import StartScreen

        self.push_screen(StartScreen())
        if self._first_run is not None:
            self.open_run(self._first_run)
        for problem in self._problems:
            self.say(problem, severity="warning")

    def _follow_theme(self) -> None:
        self.change_settings(theme=self.theme)
        for screen in self.screen_stack:
            if isinstance(screen, QuailScreen):
                screen.show_theme()

    # Runs

    def open_run(self, folder: Path) -> None:
        """See AppBase."""
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

    def _take_events(self) -> None:
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
            self.push_screen(HelpScreen.for_screen(self.screen))

    def action_log(self) -> None:
        from quail_audit.tui.screens.log import LogScreen

        if not isinstance(self.screen, LogScreen):
            self.push_screen(LogScreen(self.log_lines, self.followed))

    def action_leave(self) -> None:
        """Quit; ask first if something is still running."""
        if not self.running:
            self.exit()
            return
        from quail_audit.tui.screens.confirm import ConfirmScreen

        if isinstance(self.screen, ConfirmScreen):
            return
        question = _quit_question(self.running)
        self.push_screen(ConfirmScreen(question, "Stop and quit"), lambda yes: self.exit() if yes else None)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Add every action that has a key to the palette, under the words of the footer."""
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
    """Ask if what is running may end, and say what would be lost."""
    trains = any(isinstance(run, LiveTraining) for run in running)
    measures = any(isinstance(run, LiveRun) for run in running)
    if any(isinstance(run, LiveCure) for run in running) and not trains:
        return "A cure is still running. Stop it and quit? A checkpoint that it has not finished will be lost."
    if not trains:
        return "An audit is still running. Stop it and quit? What it has measured is kept."
    what = "A training and an audit are" if measures else "A training is"
    return (
        f"{what} still running. Stop and quit? A training gets {GRACE_S:g} seconds to save where it is; "
        "to be sure of a checkpoint, stop it in its own screen first (Ctrl+X)."
    )
