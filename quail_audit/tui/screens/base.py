"""What the app asks of a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.screen import Screen

if TYPE_CHECKING:
    from quail_audit.tui.app import QuailApp

Result = TypeVar("Result")


class QuailScreen(Screen[Result]):
    """A screen of the app.

    Attributes:
        HELP: what this screen is for, in a sentence or two, on top of its help.
    """

    HELP: ClassVar[str] = ""

    @property
    def quail(self) -> QuailApp:
        """The app, as what it is."""
        from quail_audit.tui.app import QuailApp

        assert isinstance(self.app, QuailApp)  # noqa: S101 - no other app shows these screens
        return self.app

    def show_changes(self) -> None:
        """Draw what has changed; called several times a second. Cheap where nothing has."""

    def show_theme(self) -> None:
        """Draw again what has the former theme's colours in it."""
        self.show_changes()

    def action_back(self) -> Any:
        """To the screen below."""
        return self.app.pop_screen()
