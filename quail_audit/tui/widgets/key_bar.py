"""The line at the foot of a screen: the keys that work there, as many as fit."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import Footer

LEAVES_FIRST = "command_palette"  # its actions are all in the help too


class KeyBar(Footer):
    """Textual's footer, in which no key is cut off.

    Where there is little room, the key of the command palette leaves first, then the last of the screen's own; the help
    has them all. Help and quitting stay.
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._left_out: set[str] = set()

    def compose(self) -> ComposeResult:
        """Textual's."""
        self._left_out = self._without_room()
        yield from (key for key in super().compose() if getattr(key, "action", "") not in self._left_out)

    def on_resize(self) -> None:
        if self._without_room() != self._left_out:
            self.call_after_refresh(self.recompose)

    def _without_room(self) -> set[str]:
        """The actions whose keys there is no room for."""
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
        """In cells, with a blank between key and word and one after both."""
        return cell_len(self.app.get_key_display(binding)) + 1 + cell_len(binding.description) + 1
