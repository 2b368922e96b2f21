"""Show an audit: heat map, forgetting panel, layer table and verdict, live or replayed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.reactive import reactive
from textual.widgets import Tab, Tabs

from quail_audit.schema.events.common import RunFinished
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.filtered import FilteredScreen
from quail_audit.tui.widgets.forgetting import ForgettingPanel
from quail_audit.tui.widgets.format_table import FormatTable
from quail_audit.tui.widgets.heat_map import HeatMap
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.layer_messages import LayerHighlighted, LayerOpened
from quail_audit.tui.widgets.layer_table import LayerTable
from quail_audit.tui.widgets.run_header import RunHeader
from quail_audit.tui.widgets.verdict_line import VerdictLine


class AuditScreen(FilteredScreen):
    """One run, live or finished."""

    HELP = (
        "One audit: which updates rounding erased, layer by layer, and which forgotten answers came back. "
        "The verdict is at the bottom; everything above it says why."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "samples", "Samples", tooltip="Read what every arm answered"),
        Binding("r", "remediate", "Remediate", tooltip="See what would repair this checkpoint, and start it"),
        Binding("c", "compare", "Compare", tooltip="Compare this run with another"),
        Binding("m", "next_mode", "Map", tooltip="Show another figure in the heat map", show=False),
        Binding("slash", "filter", "Filter", tooltip="Keep only some layers in the table", show=False),
        Binding("x", "next_scheme", "Scheme", tooltip="Look at the next quantization scheme", show=False),
        Binding("e", "export", "Export", tooltip="Write the report or a screenshot to a file"),
        Binding("ctrl+x", "stop", "Stop", tooltip="Stop the audit; what was measured is kept", show=False),
        Binding("ctrl+g", "resume", "Resume", tooltip="Resume an audit that was stopped", show=False),
        Binding("1", "panel('map')", "Heat map", show=False),
        Binding("2", "panel('forgetting')", "Forgetting", show=False),
        Binding("3", "panel('layers')", "Layers", show=False),
        Binding(
            "f,4",
            "formats",
            "Formats",
            key_display="f",
            tooltip="Show a verdict for each scheme; press again to go back",
        ),
        Binding(
            "p", "policy", "Policy", tooltip="Show the outcome of each rule of the policy, with its figure and limit"
        ),
        Binding("escape", "back", "Back", show=False),
    ]

    scheme: reactive[str] = reactive("", init=False)

    def __init__(self, run: LiveRun) -> None:
        super().__init__()
        self.run = run
        self._seen = -1
        self._brought_back: dict[str, float] | None = None  # of the scheme; None: not yet read from the run's folder

    def compose(self) -> ComposeResult:
        yield RunHeader(id="header")
        yield Tabs(
            Tab("Blocks × roles", id="tab-map"),
            Tab("Forgetting", id="tab-forgetting"),
            Tab("Formats", id="tab-formats"),
            id="which",
        )
        with Horizontal(id="upper", classes="-map"):
            yield HeatMap(id="map")
            yield ForgettingPanel(id="forgetting")
            yield FormatTable(id="formats")
        yield self.filter_field()
        yield LayerTable(id="layers")
        yield VerdictLine(id="verdict")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(HeatMap).mode = self.quail.settings.heat_map
        self.table.focus()
        self.show_changes()

    @property
    def table(self) -> LayerTable:
        """See FilteredScreen."""
        return self.query_one(LayerTable)

    def show_changes(self) -> None:
        """See QuailScreen."""
        if not self.scheme and self.run.schemes:
            self.scheme = self.run.schemes[0]
        if self.run.changes != self._seen:
            self._seen = self.run.changes
            self._show_run()
        self.query_one(RunHeader).show(self.run, self.scheme)
        self.query_one(VerdictLine).show(self.run, self.scheme)

    def _show_run(self) -> None:
        layers = self.run.layers(self.scheme)
        heat_map = self.query_one(HeatMap)
        heat_map.show(layers)
        if self._brought_back is None:
            self._brought_back = self.run.brought_back(self.scheme)
        heat_map.show_brought_back(self._brought_back)
        heat_map.styles.width = min(heat_map.natural_width, self.size.width) if not self._is_narrow else None
        self.table.show(layers)
        self.query_one(ForgettingPanel).show(self.run, self.scheme)
        self.query_one("#tab-formats").display = self._has_formats
        self.query_one(FormatTable).show(self.run, self.scheme)
        self.refresh_bindings()

    @property
    def _has_formats(self) -> bool:
        """True if there are several schemes to compare."""
        return len(self.run.schemes) > 1

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the table of schemes if there are several."""
        return self._has_formats if action == "formats" else True

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._seen = -1
        self.table.refresh_colours()
        self.query_one(HeatMap).refresh()
        self.show_changes()

    @property
    def _is_narrow(self) -> bool:
        return self.has_class("-narrow")

    def on_screen_resume(self) -> None:
        self._seen = -1
        self._brought_back = None  # an attribution may have come

    def on_resize(self) -> None:
        self._seen = -1  # what fits has changed
        self.call_after_refresh(self.show_changes)

    def watch_scheme(self) -> None:
        self.query_one(HeatMap).clear()
        self.table.clear_layers()
        self._seen = -1
        self._brought_back = None

    @on(LayerHighlighted)
    def _move_other_cursor(self, event: LayerHighlighted) -> None:
        other = self.query_one(HeatMap) if event.panel is self.table else self.table
        other.point_at(event.layer)

    @on(FormatTable.Highlighted)
    def _choose_scheme(self, event: FormatTable.Highlighted) -> None:
        self.scheme = event.scheme
        self.show_changes()
        if isinstance(event, FormatTable.Opened):
            self.action_panel("map")

    @on(LayerOpened)
    def _open_layer(self, event: LayerOpened) -> None:
        from quail_audit.tui.screens.layer import LayerScreen

        order = self.table.in_order
        self.app.push_screen(LayerScreen(self.run, self.scheme, event.layer, order), self._point_at)

    def _point_at(self, layer: str | None) -> None:
        """Put both cursors on the layer that was looked at last."""
        table = self.table
        if layer is not None and layer != table.current:
            table.point_at(layer)
            self.query_one(HeatMap).point_at(layer)

    @on(RunHeader.SchemeClicked)
    def action_next_scheme(self) -> None:
        self.scheme = self.next_scheme(self.run, self.scheme)
        self.show_changes()

    def action_next_mode(self) -> None:
        heat_map = self.query_one(HeatMap)
        heat_map.action_next_mode()
        self.quail.change_settings(heat_map=heat_map.mode)

    def action_panel(self, panel: str) -> None:
        if panel != "layers":
            self.query_one(Tabs).active = f"tab-{panel}"
            self._show_panel(panel)
        self.query_one(f"#{panel}").focus()

    def action_formats(self) -> None:
        self.action_panel("map" if self.query_one(FormatTable).has_focus else "formats")

    @on(Tabs.TabActivated)
    def _change_tab(self, event: Tabs.TabActivated) -> None:
        self._show_panel(str(event.tab.id).removeprefix("tab-"))

    def _show_panel(self, panel: str) -> None:
        """Show one of the upper panels if the screen is narrow; the table of schemes replaces the others on any."""
        upper = self.query_one("#upper")
        upper.set_class(panel == "map", "-map")
        upper.set_class(panel == "forgetting", "-forgetting")
        self.set_class(panel == "formats", "-formats")
        self._seen = -1

    def action_samples(self) -> None:
        if not self.run.samples:
            self.quail.say("No sample has been answered yet, or the audit has no data")
            return
        from quail_audit.tui.screens.samples import SamplesScreen

        self.app.push_screen(SamplesScreen(self.run, self.scheme))

    def action_remediate(self) -> None:
        if not self.run.layers(self.scheme):
            self.quail.say("No layer has been measured yet, so it is not known what is at risk")
            return
        from quail_audit.tui.screens.remediate import RemediateScreen

        self.app.push_screen(RemediateScreen(self.run, self.scheme))

    def action_compare(self) -> None:
        from quail_audit.tui.screens.compare import CompareScreen

        self.app.push_screen(CompareScreen(self.run))

    def action_policy(self) -> None:
        from quail_audit.tui.screens.policy import PolicyScreen

        self.app.push_screen(PolicyScreen(self.run))

    def action_export(self) -> None:
        from quail_audit.tui.screens.export import ExportScreen

        self.app.push_screen(ExportScreen(self.run, self.app.export_screenshot(title="Quail")))

    def action_resume(self) -> None:
        if not self.run.is_over or self.run.is_running_here:
            self.quail.say("This audit is still running")
        elif isinstance(self.run.state.end, RunFinished):
            self.quail.say("This audit has finished")
        else:
            self.quail.resume(self.run.folder)

    def action_stop(self) -> None:
        if self.run.child is None:
            self.quail.say("This run was not started here, so it cannot be stopped from here")
        elif self.run.child.exit_code is None:
            self.run.child.interrupt()
            self.quail.say("Stopping; what was measured is kept")
