"""Show a layer: how far its weights moved, where its codes went, what its statistics mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Static, Tab, Tabs

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.figures import LayerDetail, LayerStatistics
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.histogram import Histogram
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.layer_figures import LayerFigures
from quail_audit.tui.widgets.layer_table import end_of
from quail_audit.tui.widgets.run_header import RunHeader
from quail_audit.tui.widgets.transitions import Transitions
from quail_audit.tui.words import layer_views
from quail_audit.tui.words.layers import state_in_words

NO_DETAIL = (
    "Nothing to draw: this run has no counts of this layer. Runs of older versions have none, nor have layers that are "
    "stored quantized or whose weights are not finite."
)
PANELS = ("histogram", "codes", "figures")
OVERVIEW, CODES = "overview", "codes"
TOO_MANY_CODES = "This scheme has more than 16 codes, so changes of code are not counted."


class LayerScreen(QuailScreen[str]):
    """One layer of a run; returns the layer that was looked at last.

    Args:
        run: the layer's run.
        scheme: under which it was measured.
        layer: its name.
        order: the layers in the order of the list that it was chosen from.
    """

    HELP = (
        "One layer: how far its weights moved in their buckets, which codes they changed to, and what its statistics "
        "mean. n and p go to the next and the previous layer of the table."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,right_square_bracket", "next(1)", "Next", tooltip="The next layer of the table"),
        Binding("p,left_square_bracket", "next(-1)", "Previous", tooltip="The previous layer of the table"),
        Binding("J", "next_block(1)", "Block below", show=False, tooltip="The same role in the next block"),
        Binding("K", "next_block(-1)", "Block above", show=False, tooltip="The same role in the previous block"),
        Binding("l,L", "next_role(1)", "Next role", show=False, tooltip="The next role of this block"),
        Binding("h,H", "next_role(-1)", "Previous role", show=False, tooltip="The previous role of this block"),
        Binding("x", "next_scheme", "Scheme", tooltip="The same layer under the next quantization scheme"),
        Binding("s", "samples", "Samples", tooltip="Read what every arm answered"),
        Binding("tab", "next_panel(1)", "Panel", tooltip="The next panel"),
        Binding("shift+tab", "next_panel(-1)", "Previous panel", show=False),
        Binding("1", "panel('histogram')", "Histogram", show=False),
        Binding("2", "panel('codes')", "Codes", show=False),
        Binding("3", "panel('figures')", "Statistics", show=False),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, run: LiveRun, scheme: str, layer: str, order: list[str]) -> None:
        super().__init__()
        self.run = run
        self.scheme = scheme
        self.layer_name = layer
        self._order = order
        self._seen = -1
        self._detail_of: tuple[str, str] | None = None  # scheme and layer that are drawn

    def compose(self) -> ComposeResult:
        yield RunHeader(id="header")
        yield Static(id="layer-title")
        yield Tabs(Tab("Overview", id="tab-overview"), Tab("Codes", id="tab-codes"), id="parts", classes="strip")
        with Horizontal(id="layer-parts", classes="-overview"):
            with Vertical(id="overview"):
                yield Histogram(id="histogram")
                yield LayerFigures(id="figures")
            yield Transitions(id="codes")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Tabs).can_focus = False  # Tab goes from panel to panel, which brings the part it is in
        self.query_one(LayerFigures).focus()
        self.show_changes()

    def show_changes(self) -> None:
        """See QuailScreen."""
        if self.run.changes != self._seen:
            self._seen = self.run.changes
            self._show_layer()
        self.query_one(RunHeader).show(self.run, self.scheme)

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._seen, self._detail_of = -1, None
        self.show_changes()

    def _show_layer(self) -> None:
        layer = self.run.layer(self.scheme, self.layer_name)
        self._show_title(layer)
        histogram, codes = self.query_one(Histogram), self.query_one(Transitions)
        figures = self.query_one(LayerFigures)
        if layer is None:
            sentence = self._why_not_measured()
            figures.say(sentence)
            histogram.show(None, sentence)
            codes.show(None, sentence)
            self._detail_of = None
            return
        figures.show(layer, self.run.layers(self.scheme), self.run.limits.layer_limits(self.scheme, layer.name))
        if self._detail_of != (self.scheme, self.layer_name):
            self._detail_of = (self.scheme, self.layer_name)
            detail, sentence = self._read_detail()
            histogram.show(detail, sentence)
            too_many = detail is not None and not detail.transitions
            codes.show(None if too_many else detail, TOO_MANY_CODES if too_many else sentence)

    def _read_detail(self) -> tuple[LayerDetail | None, str]:
        """Return what to draw, or why there is nothing."""
        try:
            return self.run.detail(self.scheme, self.layer_name), NO_DETAIL
        except QuailError as error:
            return None, f"The layer's counts cannot be read: {printable(str(error))}"

    def _why_not_measured(self) -> str:
        scheme = printable(self.scheme)
        if self.run.is_over:
            return f"This layer was not measured under {scheme}: the run ended first. Press x for another scheme."
        return f"Not measured under {scheme} yet. The layer appears here once it is."

    def _show_title(self, layer: LayerStatistics | None) -> None:
        width = self.size.width
        order = self._listed
        place = f"{order.index(self.layer_name) + 1} of {len(order)}" if self.layer_name in order else ""
        state = Text(wording.UNKNOWN, style=palette.muted_style(self.app))
        if layer is not None:
            mark = wording.STATE_MARKS[layer.state] if layer.state else "!"
            risk = "  at risk" if layer.at_risk else ""
            words = state_in_words(layer)
            if len(self.layer_name) + len(words) + len(risk) + len(place) + 9 > width:  # the name comes first
                words = wording.layer_state(layer)
            state = Text(f"{mark} {words}{risk}", style=palette.state_style(self.app, layer.state))
        room = max(16, width - state.cell_len - len(place) - 6)
        text = Text(" ", no_wrap=True, overflow="ellipsis")
        text.append(end_of(printable(self.layer_name), room), style="bold")
        text.append("  ")
        text.append_text(state)
        text.append(" " * max(2, width - text.cell_len - len(place) - 1))
        text.append(place, style=palette.muted_style(self.app))
        self.query_one("#layer-title", Static).update(text)

    def on_resize(self) -> None:
        self._show_title(self.run.layer(self.scheme, self.layer_name))

    # Going to another layer

    @property
    def _listed(self) -> Sequence[str]:
        """Layers in the order of their list; in model order if this layer was not listed."""
        if self.layer_name in self._order:
            return self._order
        return [layer.name for layer in self.run.layers(self.scheme)]

    def _go_to(self, layer: str) -> None:
        self.layer_name = layer
        self._show_layer()

    def action_next(self, step: int) -> None:
        self._step(self._listed, step, "layer in the table")

    def action_next_block(self, step: int) -> None:
        layer = self.run.layer(self.scheme, self.layer_name)
        if layer is not None and layer.block is not None:
            column = layer_views.column_of(layer)
            same = [other for other in self.run.layers(self.scheme) if layer_views.column_of(other) == column]
            self._step([other.name for other in same], step, "block with this role")

    def action_next_role(self, step: int) -> None:
        layer = self.run.layer(self.scheme, self.layer_name)
        if layer is not None:
            block = [other.name for other in self.run.layers(self.scheme) if other.block == layer.block]
            self._step(block, step, "role in this block")

    def _step(self, layers: Sequence[str], step: int, what: str) -> None:
        if self.layer_name not in layers:
            return
        place = layers.index(self.layer_name) + step
        if 0 <= place < len(layers):
            self._go_to(layers[place])
        else:
            self.quail.say(f"This is the {'last' if step > 0 else 'first'} {what}")

    @on(RunHeader.SchemeClicked)
    def action_next_scheme(self) -> None:
        self.scheme = self.next_scheme(self.run, self.scheme)
        self._seen = -1
        self.show_changes()

    def action_samples(self) -> None:
        from quail_audit.tui.screens.samples import SamplesScreen

        if self.run.samples:
            self.app.push_screen(SamplesScreen(self.run, self.scheme))
        else:
            self.quail.say("No sample has been answered yet, or the audit has no data")

    # Panels

    def action_panel(self, panel: str) -> None:
        self._show_part(CODES if panel == "codes" else OVERVIEW)
        self.query_one(Tabs).active = f"tab-{CODES if panel == 'codes' else OVERVIEW}"
        self.query_one(f"#{panel}").focus()

    def action_next_panel(self, step: int) -> None:
        current = self.focused.id if self.focused is not None else None
        place = PANELS.index(current) if current in PANELS else -1
        self.action_panel(PANELS[(place + step) % len(PANELS)])

    @on(Tabs.TabActivated)
    def _change_tab(self, event: Tabs.TabActivated) -> None:
        part = str(event.tab.id).removeprefix("tab-")
        self._show_part(part)
        if self.has_class("-narrow") and (self.focused is None or not self.focused.display):
            self.action_panel("codes" if part == CODES else "figures")

    def _show_part(self, part: str) -> None:
        """Show one of the two parts if the screen is narrow."""
        parts = self.query_one("#layer-parts")
        parts.set_class(part == OVERVIEW, "-overview")
        parts.set_class(part == CODES, "-codes")

    def action_back(self) -> None:
        """Go back to the audit, which puts its cursor on this layer."""
        self.dismiss(self.layer_name)
