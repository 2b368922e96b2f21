"""What the app asks of a screen."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from textual.screen import Screen

from quail_audit.tui.app_base import AppBase
from quail_audit.tui.live.run import LiveRun

Result = TypeVar("Result")


class QuailScreen(Screen[Result]):
    """A screen of the app.

    Attributes:
        HELP: what this screen is for, in a sentence or two, on top of its help.
    """

    HELP: ClassVar[str] = ""

    @property
    def quail(self) -> AppBase:
        """The app, as what it is."""
        assert isinstance(self.app, AppBase)  # noqa: S101 - no other app shows these screens
        return self.app

    def show_changes(self) -> None:
        """Draw what has changed; called several times a second. Cheap where nothing has."""

    def show_theme(self) -> None:
        """Draw again what has the former theme's colours in it."""
        self.show_changes()

    def next_scheme(self, run: LiveRun, scheme: str) -> str:
        """Return the scheme of a run after this one; if there is no other, say so and return the same."""
        schemes = run.schemes
        if len(schemes) < 2:
            self.quail.say("This run has one scheme; more are audited with --scheme, or on the start screen")
            return scheme
        return schemes[(schemes.index(scheme) + 1) % len(schemes)]

    def action_back(self) -> Any:
        """To the screen below."""
        return self.app.pop_screen()
