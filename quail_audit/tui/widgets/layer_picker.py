"""Choose the layers to train on a map of blocks × roles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from quail_audit.reports import wording
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.report import STATES_BY_RISK
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.heat_map import NOT_MEASURED, HeatMap

TAKEN, SOME, LEFT = "✓", "–", " "


class LayerPicker(HeatMap):
    """Blocks down, roles across, as in the heat map; ✓ before a layer's state means that it is trained.

    A cell holds all layers of a block with the same role, which are many in a mixture of experts.
    """

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each row is a block, each column a role. ✓ is trained, – partly trained; every other weight stays as it is.",
        "█ erased and ▃ drowned are at risk, ▁ carried is safe, ░ untouched was never changed.",
        "Space chooses or drops a layer, b its block, R its role; a chooses those at risk, A all, N none.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "space,enter", "toggle_layer", "Layer", tooltip="Choose or drop the layer under the cursor", key_display="␣"
        ),
        Binding("b", "toggle_block", "Block", tooltip="Choose or drop its whole block"),
        Binding("R", "toggle_role", "Role", tooltip="Choose or drop its role in every block", key_display="R"),
        Binding("a", "take_at_risk", "At risk", tooltip="Choose exactly the layers at risk"),
        Binding("A", "take_all", "All", tooltip="Choose every layer", key_display="A", show=False),
        Binding("N", "take_none", "None", tooltip="Choose no layer", key_display="N", show=False),
    ]

    class Changed(Message):
        """The choice of layers has changed."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._all: dict[str, LayerStatistics] = {}
        self.chosen: frozenset[str] = frozenset()

    def show(self, layers: Sequence[LayerStatistics]) -> None:
        """See HeatMap."""
        super().show(layers)
        self._all = {layer.name: layer for layer in layers}
        self._count()

    @property
    def at_risk(self) -> frozenset[str]:
        return frozenset(name for name, layer in self._all.items() if layer.at_risk)

    def choose(self, names: Collection[str]) -> None:
        """Choose exactly these layers."""
        self.chosen = frozenset(names) & self._all.keys()
        self._count()
        self.refresh()
        self.post_message(LayerPicker.Changed())

    def action_toggle_layer(self) -> None:
        self._toggle(self._names([self._cursor]))

    def action_toggle_block(self) -> None:
        self._toggle(self._names((self._cursor[0], column) for column in range(len(self._columns))))

    def action_toggle_role(self) -> None:
        self._toggle(self._names((row, self._cursor[1]) for row in range(len(self._blocks))))

    def action_take_at_risk(self) -> None:
        self.choose(self.at_risk)

    def action_take_all(self) -> None:
        self.choose(self._all.keys())

    def action_take_none(self) -> None:
        self.choose(())

    def on_click(self, event: events.Click) -> None:
        """Choose or drop a cell, unlike on a heat map."""
        event.prevent_default()
        cell = self._cell_at(event)
        if cell is not None:
            self._put_cursor(*cell)
            self._post_highlighted()
            self.action_toggle_layer()

    def watch_mode(self) -> None:
        """Show the map of risk only."""
        self.border_title = "Layers to train"

    def _names(self, places: Iterable[tuple[int, int]]) -> frozenset[str]:
        if not self._blocks or not self._columns:
            return frozenset()
        cells = (self._cells.get((self._blocks[row], self._columns[column]), []) for row, column in places)
        return frozenset(layer.name for cell in cells for layer in cell)

    def _toggle(self, names: frozenset[str]) -> None:
        """Choose all of them, or drop them if all are chosen."""
        self.choose(self.chosen - names if names <= self.chosen else self.chosen | names)

    def _count(self) -> None:
        weights = sum(self._all[name].weights for name in self.chosen)
        self.border_subtitle = f"{len(self.chosen)} of {len(self._all)} · {wording.count_text(weights)} weights"

    def _cell(self, row: int, column: int, is_labelled: bool) -> Segment:
        width = self._cell_columns
        names = self._names([(row, column)])
        layer = self._worst(row, column)
        if layer is None:
            return Segment(f"{NOT_MEASURED:^{width}}", palette.muted_style(self.app))
        mark = wording.STATE_MARKS[layer.state] if layer.state else "!"
        taken = names & self.chosen
        sign = TAKEN if taken == names else SOME if taken else LEFT
        style = palette.state_style(self.app, layer.state)
        if taken:
            style += Style(bold=True, bgcolor=self.app.theme_variables["surface"])
        if (row, column) == self._cursor:
            style += Style(reverse=self.has_focus, underline=not self.has_focus, bold=True)
        text = f"{sign if is_labelled else ' '}{mark * max(1, width - 2)}"
        return Segment(f"{text:<{width}}", style)

    def _legend(self, width: int) -> Strip:
        segments: list[Segment] = []
        columns = 0
        for state in STATES_BY_RISK:
            columns += len(state or "") + 2
            if state is not None and columns <= width:
                segments.append(Segment(wording.STATE_MARKS[state], palette.state_style(self.app, state)))
                segments.append(Segment(f"{state} ", palette.muted_style(self.app)))
        return self._strip(segments, width)
