"""Tell the screen which layer the reader points at or opens, in whatever panel."""

from textual.message import Message
from textual.widget import Widget


class LayerHighlighted(Message):
    """The cursor of a panel is on another layer."""

    def __init__(self, panel: Widget, layer: str) -> None:
        self.panel = panel
        self.layer = layer
        super().__init__()


class LayerOpened(Message):
    """A layer was chosen."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        super().__init__()
