"""Define what every screen of the app has."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from textual.screen import Screen

from quail_audit.tui.app_base import AppBase
from quail_audit.tui.live.run import LiveRun

Result = TypeVar("Result")


class QuailScreen(Screen[Result]):
    """A screen of the app.

    Attributes:
        HELP: one or two sentences on what the screen is for, at the top of its help.
    """

    HELP: ClassVar[str] = ""

    @property
    def quail(self) -> AppBase:
        """The app."""
        assert isinstance(self.app, AppBase)  # noqa: S101 - no other app shows these screens
        return self.app

    def show_changes(self) -> None:
        """Draw what has changed. Called several times a second, so cheap if nothing has."""

    def show_theme(self) -> None:
        """Draw again what has colours of the former theme."""
        self.show_changes()

    def next_scheme(self, run: LiveRun, scheme: str) -> str:
        """Return the scheme of a run after this one; if there is no other, say so and return the same."""
        schemes = run.schemes
        if len(schemes) < 2:
            self.quail.say("This run has one scheme; choose more with --scheme, or on the start screen")
            return scheme
        return schemes[(schemes.index(scheme) + 1) % len(schemes)]

    def action_back(self) -> Any:
        """Go back to the screen below."""
        return self.app.pop_screen()
