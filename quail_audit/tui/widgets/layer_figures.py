"""Show a layer's statistics, each with one line on its meaning, and the layer's neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.policy import Limits
from quail_audit.tui.theme import palette
from quail_audit.tui.words import layer_views
from quail_audit.tui.words.layers import readings

BLOCKS_BESIDE = 3  # on either side


class LayerFigures(VerticalScroll, can_focus=True):
    """Name, value and meaning of each statistic, then the layers around."""

    DEFAULT_CLASSES = "panel"
    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each line: a statistic, its value in this layer, and what that value means.",
        "Overlap, survival and noise decide the state; the rest says how large the update was.",
        "Below: the same role in the blocks around it, and the other roles of this block. J K and H L go there.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", "Down", show=False),
        Binding("k,up", "scroll_up", "Up", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Statistics"

    def compose(self) -> ComposeResult:
        yield Static(id="figures")

    def say(self, sentence: str) -> None:
        """Show a sentence in place of a layer."""
        self.query_one("#figures", Static).update(Text(sentence, style=palette.muted_style(self.app)))

    def show(self, layer: LayerStatistics, layers: Sequence[LayerStatistics], limits: Limits) -> None:
        """Show a layer among those measured, by its limits."""
        muted = palette.muted_style(self.app)
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1)
        for reading in readings(layer, limits):
            words = Text(reading.words, style=muted)
            table.add_row(reading.name, Text(reading.value, style=Style(bold=True)), words)
        column = layer_views.column_of(layer)
        roles = [other for other in layers if other.block == layer.block]
        blocks = [other for other in layers if layer_views.column_of(other) == column and _is_near(other, layer)]
        table.add_row("this block", "", self._marks(roles, layer, [layer_views.column_of(other) for other in roles]))
        if layer.block is not None:
            table.add_row("this role", "", self._marks(blocks, layer, [f"{other.block}" for other in blocks]))
        self.query_one("#figures", Static).update(table)

    def _marks(self, layers: Sequence[LayerStatistics], here: LayerStatistics, columns: list[str]) -> Text:
        """Return each layer's short title and the mark of its state; the current one stands out."""
        text = Text()
        titles = layer_views.column_titles(columns, 8)
        for layer, title in zip(layers, titles, strict=True):
            is_here = layer.name == here.name
            style = palette.style(self.app, "foreground", bold=True) if is_here else palette.muted_style(self.app)
            text.append(f"{'▸' if is_here else ''}{printable(title)} ", style=style)
            mark = wording.STATE_MARKS[layer.state] if layer.state else "!"
            text.append(f"{mark}  ", style=palette.state_style(self.app, layer.state))
        return text


def _is_near(other: LayerStatistics, layer: LayerStatistics) -> bool:
    if other.block is None or layer.block is None:
        return False
    return abs(other.block - layer.block) <= BLOCKS_BESIDE
