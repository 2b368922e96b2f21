"""Show the cures that fit an audit, with cost and exact command, and start one."""

from __future__ import annotations

import shlex
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.runs.attributions import read_units
from quail_audit.tui.live.cure import LiveCure
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.screens.retrain import RetrainScreen, is_installed
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.run_header import pair_in
from quail_audit.verdict.prescription import Advice, Prescription, prescribe


class RemediateScreen(QuailScreen[None]):
    """The cures of an audited checkpoint.

    Args:
        run: the audit.
        scheme: the scheme that the reader looks at.
    """

    HELP = (
        "What would repair this checkpoint, the best first: the states that each cure is for, its cost, what it was "
        "measured to do, and the exact command. An erased update can be carried without training; a drowned one needs "
        "calibration or training; a few layers can be spared; what was not forgotten must be unlearned again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "start", "Start", tooltip="Start the cure under the cursor", priority=True, key_display="^r"),
        Binding("r", "retrain", "Retrain", tooltip="Choose layers and settings of a retraining"),
        Binding("c", "copy", "Copy", tooltip="Copy the commands of the cure under the cursor"),
        Binding("w", "watch", "Watch", tooltip="Go back to the cure that was started here", show=False),
        Binding("j", "move(1)", "Down", show=False),
        Binding("k", "move(-1)", "Up", show=False),
        Binding("escape", "back", "Back"),
    ]

    def __init__(self, run: LiveRun, scheme: str) -> None:
        super().__init__()
        self.run = run
        self._scheme = scheme
        self._advice = Advice(scheme, "")
        self._seen = -1
        self._cure: LiveCure | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="header")
        yield Static(id="finding", markup=False)
        with Container(id="remedies"):
            yield OptionList(id="cures", classes="panel", markup=False)
            with VerticalScroll(id="cure", classes="panel"):
                yield Static(id="cure-text", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#cures").border_title = "Cures, the best first"
        self.query_one("#cures").focus()
        self.show_changes()

    def on_screen_resume(self) -> None:
        self._seen = -1  # an attribution may have come

    def show_changes(self) -> None:
        """See QuailScreen."""
        if self.run.changes != self._seen:
            self._seen = self.run.changes
            self._show_advice()
        self._show_header()

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._seen = -1
        self.show_changes()

    @property
    def _chosen(self) -> Prescription | None:
        at = self.query_one(OptionList).highlighted
        found = self._advice.prescriptions
        return found[at] if at is not None and at < len(found) else None

    def _show_advice(self) -> None:
        is_attributed = bool(read_units(self.run.folder, self._scheme))
        report, folder = self.run.state.report(), self.run.folder_from_here
        self._advice = prescribe(report, folder, self._scheme, is_attributed=is_attributed)
        self.query_one("#finding", Static).update(Text(printable(self._advice.finding)))
        cures = self.query_one(OptionList)
        at = cures.highlighted or 0
        cures.clear_options()
        for number, found in enumerate(self._advice.prescriptions, start=1):
            line = Text.assemble(
                (f"{number}. {found.cure}", "bold"), (f"  {_cost(found)}", palette.muted_style(self.app))
            )
            cures.add_option(Option(line))
        if not self._advice.prescriptions:
            cures.add_option(Option(Text("no cure fits; press r to retrain anyway"), disabled=True))
        else:
            cures.highlighted = min(at, len(self._advice.prescriptions) - 1)
        self._show_cure()

    @on(OptionList.OptionHighlighted)
    def _show_cure(self) -> None:
        panel, chosen = self.query_one("#cure"), self._chosen
        text = Text()
        panel.border_title = "" if chosen is None else chosen.cure.capitalize()
        panel.border_subtitle = "" if chosen is None else "Ctrl+R starts it, c copies it"
        if chosen is not None:
            muted = palette.muted_style(self.app)
            parts = (("fits", chosen.why), ("costs", _cost(chosen)), ("measured", chosen.measured))
            for name, value in parts:
                text.append(f"{name}: ", style=muted).append(f"{printable(value)}\n")
            for number, command in enumerate(chosen.shown):
                text.append("\nthen:\n" if number else "\n", style=muted)
                text.append(printable(command), style="bold")
        self.query_one("#cure-text", Static).update(text)

    def _show_header(self) -> None:
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" Quail ", style=palette.style(self.app, "accent", bold=True))
        text.append(" Remediate  ", style="bold")
        right = Text(f"at {printable(self._scheme)}", style=palette.muted_style(self.app))
        if self._cure is not None:
            right = Text(f"{self._cure.name} {self._cure.stage}: w opens it", style=palette.style(self.app, "accent"))
        text.append(pair_in(self.size.width - text.cell_len - right.cell_len - 3, self.run))
        text.append(" " * max(2, self.size.width - text.cell_len - right.cell_len - 1))
        self.query_one("#header", Static).update(text.append_text(right))

    # Actions

    @on(OptionList.OptionSelected)
    def action_start(self) -> None:
        """Start the chosen cure; a retraining needs settings first."""
        chosen = self._chosen
        if self._cure is not None and self._cure.is_running_here:
            self.action_watch()
        elif chosen is None:
            self.quail.say("There is no cure to start")
        elif chosen.cure == "retraining":
            self.action_retrain()
        elif not is_installed(chosen.commands[0][1]):
            self.quail.say(
                f"quail {chosen.commands[0][1]} is not installed here: press c to copy the command and run it elsewhere"
            )
        else:
            self._cure = self.quail.treat(chosen.commands[0], self.run.folder)
            self.action_watch()

    def action_watch(self) -> None:
        from quail_audit.tui.screens.cure import CureScreen

        if self._cure is None:
            self.quail.say("No cure was started here yet; press Ctrl+R to start one")
        else:
            self.app.push_screen(CureScreen(self._cure, self.run))

    def action_retrain(self) -> None:
        self.app.push_screen(RetrainScreen(self.run, self._scheme))

    def action_copy(self) -> None:
        if (chosen := self._chosen) is not None:
            self.app.copy_to_clipboard("\n".join(map(shlex.join, chosen.commands)))
            self.quail.say("Copied the command")

    def action_move(self, lines: int) -> None:
        cures = self.query_one(OptionList)
        if lines > 0:
            cures.action_cursor_down()
        else:
            cures.action_cursor_up()


def _cost(found: Prescription) -> str:
    time = "time depends on the data" if found.seconds is None else f"about {wording.duration(found.seconds)}"
    return f"{time}, writes {wording.byte_size(found.size_bytes) if found.size_bytes else 'no weights'}"
