"""Filter a screen's table of layers by a text that the reader types."""

from __future__ import annotations

from abc import abstractmethod

from textual import on
from textual.widgets import Input

from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.widgets.change_table import ChangeTable
from quail_audit.tui.widgets.layer_table import LayerTable


class FilteredScreen(QuailScreen[None]):
    """A screen with a table of layers; its compose yields filter_field()."""

    @property
    @abstractmethod
    def table(self) -> LayerTable | ChangeTable:
        """The table that is filtered."""

    def filter_field(self) -> Input:
        """Make the field, which shows while it is typed in."""
        field = Input(placeholder="part of a layer's name, or a state; Enter keeps it, Escape clears it", id="filter")
        field.display = False
        return field

    @property
    def _filter(self) -> Input:
        return self.query_one("#filter", Input)

    def action_filter(self) -> None:
        self._filter.display = True
        self._filter.focus()

    @on(Input.Changed, "#filter")
    def _apply_filter(self, event: Input.Changed) -> None:
        self.table.keep(event.value)

    @on(Input.Submitted, "#filter")
    def _keep_filter(self) -> None:
        self._filter.display = False
        self.table.focus()

    def action_back(self) -> None:
        """Clear the filter if there is one, or else leave the screen."""
        if self._filter.display:
            self._keep_filter()
            self._filter.value = ""
        elif self._filter.value:
            self._filter.value = ""
        else:
            self.app.pop_screen()
