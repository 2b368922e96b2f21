"""Show the keys of a screen on its last line, as many as fit."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import Footer

LEAVES_FIRST = "command_palette"  # its actions are all in the help too


class KeyBar(Footer):
    """Textual's footer, in which no key is cut off.

    If there is little room, the key of the command palette goes first, then the last ones of the screen; the help has
    them all. Help and Quit stay.
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._left_out: set[str] = set()

    def compose(self) -> ComposeResult:
        """See Footer."""
        self._left_out = self._hidden_actions()
        yield from (key for key in super().compose() if getattr(key, "action", "") not in self._left_out)

    def on_resize(self) -> None:
        if self._hidden_actions() != self._left_out:
            self.call_after_refresh(self.recompose)

    def _hidden_actions(self) -> set[str]:
        """Return the actions whose keys do not fit."""
        widths: dict[str, int] = {}
        own: list[str] = []
        for node, binding, _, _ in self.screen.active_bindings.values():
            if binding.show and binding.action not in widths:
                widths[binding.action] = self._width(binding)
                if not isinstance(node, App):
                    own.append(binding.action)
        left_out: set[str] = set()
        spare = [*own, LEAVES_FIRST]
        while spare and sum(widths.values()) - 1 > self.app.size.width:  # no blank after the last
            left_out.add(spare[-1])
            widths.pop(spare.pop(), None)
        return left_out

    def _width(self, binding: Binding) -> int:
        """Return a key's width in cells, with a blank between key and word and one after both."""
        return cell_len(self.app.get_key_display(binding)) + 1 + cell_len(binding.description) + 1
