"""Choose the schemes to audit under, by boxes in a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import HorizontalScroll
from textual.message import Message
from textual.widgets import Checkbox

from quail_audit.core.untrusted import printable
from quail_audit.schema.preflight import SchemeChoice


class SchemeBox(Checkbox):
    """One scheme.

    Args:
        scheme: its name, as --scheme takes it.
        checked: whether it is checked at first.
    """

    # Textual's box has the same X on and off, and differs only in colour.
    BUTTON_LEFT = BUTTON_RIGHT = ""

    def __init__(self, scheme: str, checked: bool) -> None:
        self.BUTTON_INNER = _box(checked)
        super().__init__(Text(printable(scheme, limit=40)), checked, compact=True)
        self.scheme = scheme

    def watch_value(self) -> None:
        self.BUTTON_INNER = _box(self.value)
        super().watch_value()


class SchemeChoices(HorizontalScroll, can_focus=False):
    """Boxes in a line, which scrolls if it is longer than the screen."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "A scheme is how the weights will be rounded when the model is deployed: audit the ones you will use.",
        "Space checks or unchecks one, ← and → go along the line; every scheme adds two arms of samples.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "app.focus_next", "Next scheme", show=False),
        Binding("left,h", "app.focus_previous", "Previous scheme", show=False),
    ]

    class Changed(Message):
        """The choice of schemes has changed."""

    def __init__(self, chosen: Sequence[str], *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._begun_with = tuple(chosen)

    def compose(self) -> ComposeResult:
        for scheme in self._begun_with:
            yield SchemeBox(scheme, True)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The checked schemes, in the order shown."""
        return tuple(box.scheme for box in self.query(SchemeBox) if box.value)

    async def offer(self, schemes: Sequence[SchemeChoice]) -> None:
        """Show these too, unchecked. One that is checked and not among them stays, so that it can be unchecked."""
        boxes = {box.scheme: box for box in self.query(SchemeBox)}
        for scheme in schemes:
            box = boxes.get(scheme.name)
            if box is None:
                box = SchemeBox(scheme.name, False)
                await self.mount(box)
            lacks = f"; it needs: {scheme.missing}" if scheme.missing else ""
            box.tooltip = Text(printable(f"{scheme.title}; {scheme.bits_per_weight:.3g} bits a weight{lacks}"))

    def on_checkbox_changed(self, event: Checkbox.Changed) -> None:
        event.stop()
        self.post_message(SchemeChoices.Changed())


def _box(checked: bool) -> str:
    return "[✓]" if checked else "[ ]"
