"""Choose layers and settings of a retraining, show its exact command, and start it."""

from __future__ import annotations

import shlex
from importlib.metadata import entry_points
from typing import ClassVar

from pydantic import ValidationError
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.command_line import train_arguments
from quail_audit.schema.requests import TrainRequest
from quail_audit.tui.form.layer_specs import AT_RISK, layer_specs
from quail_audit.tui.form.training_settings import SETTINGS, Chosen, suggested_output
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.layer_messages import LayerHighlighted
from quail_audit.tui.widgets.layer_picker import LayerPicker
from quail_audit.tui.widgets.run_header import pair_in
from quail_audit.tui.widgets.training_form import TrainingForm

COMMANDS_GROUP = "quail.commands"
OWN_CURES = ("attribute", "recipe")  # commands that come with quail_audit itself
NOT_INSTALLED = "quail train is not installed here: press c to copy the command and run it elsewhere"


class RetrainScreen(QuailScreen[None]):
    """The form of a retraining of the layers at risk.

    Args:
        run: the audit that found them.
        scheme: the scheme that the reader looks at.
    """

    HELP = (
        "Retrain the layers whose forgetting is lost in rounding. The layers at risk are already chosen; the settings "
        "are the paper's unless you change them; the command below is exactly what Ctrl+R runs."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "start", "Start", tooltip="Start the training", priority=True, key_display="^r"),
        Binding("c", "copy", "Copy", tooltip="Copy the command"),
        Binding("w", "watch", "Watch", tooltip="Go back to the training that was started here", show=False),
        Binding("1", "focus_on('layers')", "Layers", show=False),
        Binding("2", "focus_on('objective')", "Settings", tooltip="Go to the settings"),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, run: LiveRun, scheme: str) -> None:
        super().__init__()
        self.run = run
        self._scheme = scheme
        self._training: LiveTraining | None = None
        self._chosen = Chosen()
        self._command = ""
        self._layers_seen = 0

    def compose(self) -> ComposeResult:
        request = self.run.request
        first = {"scheme": self._scheme}
        if request is not None:
            first |= {"data": request.data or "", "out": suggested_output(request.unlearned)}
            first |= {"device": request.device} if request.device != "auto" else {}
        yield Static(id="header")
        with Horizontal(id="plan"):
            yield LayerPicker(id="layers")
            yield TrainingForm(first, self.run.schemes, id="settings")
        yield Static(id="explained", markup=False)
        with VerticalScroll(id="command", classes="panel", can_focus=False):
            yield Static(id="command-text", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#command").border_title = "Command"
        picker = self.query_one(LayerPicker)
        picker.focus()
        self.show_changes()
        picker.choose(picker.at_risk)
        picker.point_at(next((layer.name for layer in self.run.layers(self._scheme) if layer.at_risk), ""))

    def show_changes(self) -> None:
        """See QuailScreen."""
        layers = self.run.layers(self._scheme)
        if len(layers) != self._layers_seen:
            picker = self.query_one(LayerPicker)
            follows = picker.chosen == picker.at_risk
            self._layers_seen = len(layers)
            picker.show(layers)
            if follows:
                picker.choose(picker.at_risk)
        self._show_header()

    def show_theme(self) -> None:
        """See QuailScreen."""
        self.query_one(LayerPicker).refresh()
        self._explain()
        self._show_header()

    def _show_header(self) -> None:
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" Quail ", style=palette.style(self.app, "accent", bold=True))
        text.append(" Retrain  ", style="bold")
        right = self._stage_text()
        text.append(pair_in(self.size.width - text.cell_len - right.cell_len - 3, self.run))
        text.append(" " * max(2, self.size.width - text.cell_len - right.cell_len - 1))
        self.query_one("#header", Static).update(text.append_text(right))

    def _stage_text(self) -> Text:
        if self._training is not None:
            is_over = self._training.stage in ("finished", "stopped")
            title = f"training {self._training.stage}: w opens it"
            return Text(title if is_over else f"● {title}", style=palette.style(self.app, "accent"))
        if not is_installed("train"):
            return Text("train not installed", style=palette.style(self.app, "warning", bold=True))
        return Text(f"at {printable(self._scheme)}", style=palette.muted_style(self.app))

    # Choices

    @on(LayerPicker.Changed)
    @on(TrainingForm.Changed)
    def _refresh_plan(self) -> None:
        form = self.query_one(TrainingForm)
        self._chosen = form.read()
        scheme = str(self._chosen.values.get("scheme", self._scheme))
        if scheme != self._scheme:
            self._change_scheme(scheme)
        self._show_command()
        self._explain()

    def _change_scheme(self, scheme: str) -> None:
        """Choose the layers at risk under another scheme, unless the reader chose layers."""
        picker = self.query_one(LayerPicker)
        follows, chosen = picker.chosen == picker.at_risk, picker.chosen
        self._scheme = scheme
        picker.clear()
        picker.show(self.run.layers(scheme))
        picker.choose(picker.at_risk if follows else chosen)

    def _request(self) -> TrainRequest | None:
        """Return what would be trained; None while something is missing or wrong."""
        audited, picker = self.run.request, self.query_one(LayerPicker)
        if audited is None or self._chosen.problems or not picker.chosen:
            return None
        return self._build()

    def _build(self) -> TrainRequest | None:
        audited, picker = self.run.request, self.query_one(LayerPicker)
        if audited is None:
            return None
        specs = layer_specs(self.run.layers(self._scheme), picker.chosen, picker.at_risk)
        values: dict[str, object] = {"data": "", "out": "", **self._chosen.values}
        values |= {"text_column": audited.text_column, "label_column": audited.label_column}
        values |= {"original": audited.original, "unlearned": audited.unlearned, "layers": specs}
        if AT_RISK in specs:
            values["report"] = self.run.folder_from_here
        try:
            return TrainRequest.model_validate(values)
        except ValidationError:  # a value that TrainRequest refuses
            return None

    def _show_command(self) -> None:
        request = self._build()
        shown = Text()
        if request is not None:
            self._command = shlex.join(["quail", *train_arguments(request, given=self._given)])
            shown.append(printable(self._command))
        self.query_one("#command-text", Static).update(shown)
        problem = self._first_problem()
        panel = self.query_one("#command")
        panel.border_title = "Command" if not problem else f"Command ── not ready: {problem}"
        panel.border_subtitle = "Ctrl+R runs it, c copies it" if not problem else "c copies it"
        panel.set_class(bool(problem), "-wrong")

    @property
    def _given(self) -> frozenset[str]:
        return frozenset(self._chosen.values) - {"objective", "scheme"}

    def _first_problem(self) -> str:
        """Say the first thing that keeps the training from starting."""
        if not self.query_one(LayerPicker).chosen:
            return "no layer is chosen"
        for name in self._chosen.problems:
            return self.query_one(TrainingForm).help_of(name, self._chosen)[0]
        return ""

    # Help

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._explain()

    @on(LayerHighlighted)
    def _explain(self) -> None:
        """Show one line on the focused field, or on the layer under the cursor."""
        text = Text(no_wrap=False, overflow="ellipsis")
        picker, focused = self.query_one(LayerPicker), self.focused
        name = (focused.id if focused is not None else None) or ""
        if not is_installed("train"):
            text.append(f" {NOT_INSTALLED}\n", style=palette.style(self.app, "warning"))
        if name in {setting.name for setting in SETTINGS}:
            problem, help_line = self.query_one(TrainingForm).help_of(name, self._chosen)
            if problem:
                text.append(f" ✗ {problem}\n", style=palette.style(self.app, "error", bold=True))
            text.append(f" {help_line}", style=palette.muted_style(self.app))
        elif picker.current is not None:
            text.append_text(self._layer_in_words(picker))
        self.query_one("#explained", Static).update(text)

    def _layer_in_words(self, picker: LayerPicker) -> Text:
        layer = picker.current
        assert layer is not None  # noqa: S101 - the caller asked
        state = wording.layer_state(layer)
        text = Text(" ")
        text.append(printable(layer.name), style="bold")
        text.append(f"  {wording.count_text(layer.weights)} weights, survival {wording.ratio_text(layer.survival)}  ")
        text.append(state, style=palette.state_style(self.app, layer.state))
        if layer.state is not None:
            text.append(f": {wording.STATE_MEANINGS[layer.state]}", style=palette.muted_style(self.app))
        return text

    # Actions

    def action_start(self) -> None:
        if self._training is not None and self._training.is_running_here:
            self.action_watch()
            return
        problem = self._first_problem()
        request = self._request()
        if not is_installed("train"):
            self.quail.say(NOT_INSTALLED, severity="warning")
        elif request is None:
            self.quail.say(f"Not started: {problem or 'the settings do not fit together'}", severity="warning")
        else:
            self._training = self.quail.train(request, given=self._given)
            self.action_watch()

    def action_watch(self) -> None:
        from quail_audit.tui.screens.training import TrainingScreen

        if self._training is None:
            self.quail.say("No training was started here yet; press Ctrl+R to start one")
        else:
            self.app.push_screen(TrainingScreen(self._training, self.run))

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self._command)
        self.quail.say("Copied the command")

    def action_focus_on(self, what: str) -> None:
        self.query_one(f"#{what}").focus()

    def action_back(self) -> None:
        """Go from the settings to the layers, and from there to the screen below."""
        picker = self.query_one(LayerPicker)
        if picker.has_focus:
            self.app.pop_screen()
        else:
            picker.focus()


def is_installed(command: str) -> bool:
    """Return whether quail has such a command. Reads what packages declare, without loading them."""
    return command in OWN_CURES or bool(entry_points(group=COMMANDS_GROUP, name=command))
