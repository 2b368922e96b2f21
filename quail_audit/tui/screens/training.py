"""Show a training as it goes, how it ended, and the way to the audit of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widgets import Static

from quail_audit.core.errors import EXIT_INTERRUPTED
from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.events.common import CheckpointSaved, RunFailed
from quail_audit.schema.events.training import TrainEval
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.form.choices import policy_here
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.screens.making import MakingScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.training_plots import TrainingPlots, figure
from quail_audit.tui.words.endings import TRAINING

BAR_COLUMNS = 24
FACT_COLUMNS = 17
EIGHTHS = " ▏▎▍▌▋▊▉"


class TrainingScreen(MakingScreen):
    """One training.

    Args:
        training: the training.
        before: see MakingScreen.
    """

    KIND = TRAINING
    HELP = (
        "A running training: the loss and its terms step by step, what the rounded model scores on the way, and the "
        "checkpoints it saves. When it is done, press a to audit the result and see before and after side by side."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "audit", "Audit the result", tooltip="Measure the result, and show before and after"),
        Binding("ctrl+x", "stop", "Stop", tooltip="Stop after this step, with a checkpoint", key_display="^x"),
        Binding("c", "copy", "Copy command", tooltip="Copy the command that repeats this training"),
        Binding("1", "focus_on('plots')", "Curves", show=False),
        Binding("2", "focus_on('facts')", "Facts", show=False),
        Binding("escape", "back", "Back"),
    ]

    def __init__(self, training: LiveTraining, before: LiveRun | None) -> None:
        super().__init__(training, before)
        self.training = training

    def compose(self) -> ComposeResult:
        yield Static(id="header")
        with Container(id="training"):
            plots = TrainingPlots(id="plots", classes="panel")
            plots.border_title = "Steps"
            yield plots
            with VerticalScroll(id="facts", classes="panel"):
                yield Static(id="facts-text", markup=False)
        yield Static(id="standing")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#facts").border_title = "Training"
        self.query_one("#plots").focus()
        self.show_changes()

    def on_resize(self) -> None:
        self._seen = -1  # what fits has changed
        self.call_after_refresh(self.show_changes)

    def show_changes(self) -> None:
        """See QuailScreen."""
        if self.training.changes != self._seen:
            self._seen = self.training.changes
            self.query_one(TrainingPlots).show(self.training.state.steps)
            self.query_one("#facts-text", Static).update(self._facts())
        step, total = self._progress()
        progress = [bar(step / total), f"{step} / {total}"] if total else []
        objective, remaining_s = self.training.request.objective, self.training.state.remaining_s
        self._show_header("Training", progress, subject=objective, remaining_s=remaining_s)
        self.query_one("#standing", Static).update(self._stage_text())
        self._show_bindings()

    # Drawing

    def _progress(self) -> tuple[int, int]:
        """Return the steps made, and planned."""
        state = self.training.state
        if state.steps:
            return state.steps[-1].step, state.steps[-1].total
        return 0, state.plan.steps if state.plan is not None else 0

    def _facts(self) -> Text:
        """Return the facts; those that change come first, so that a low panel shows them."""
        state, request = self.training.state, self.training.request
        text = Text()
        if state.evals:
            text.append_text(self._scores(state.evals[0], state.evals[-1]))
        for saved in reversed(state.saved):
            what = "result" if saved.final else "saved"
            text.append_text(self._row(f"{what}, step {saved.step}", printable(saved.folder)))
        if state.plan is not None:
            plan = state.plan
            text.append_text(self._row("layers", f"{len(plan.layers)}, {wording.count_text(plan.weights)} weights"))
            text.append_text(self._row("samples", f"{plan.forget_samples} forget, {plan.retain_samples} retain"))
            if plan.margin_logits is not None:
                text.append_text(self._row("margin γ", f"{figure(plan.margin_logits)} logits"))  # noqa: RUF001
            if plan.quantization_steps:
                middle = sorted(plan.quantization_steps.values())[len(plan.quantization_steps) // 2]
                text.append_text(self._row("Δq, median", f"{wording.magnitude_text(middle)} in units of weights"))
        text.append_text(self._row("objective", printable(request.objective)))
        text.append_text(self._row("result goes to", printable(request.out)))
        for note in state.notes:
            text.append(f"\n{printable(note)}\n", style=palette.muted_style(self.app))
        return text

    def _row(self, name: str, value: str) -> Text:
        return Text.assemble((f"{name:<{FACT_COLUMNS}}", palette.muted_style(self.app)), f"{value}\n")

    def _scores(self, first: TrainEval, last: TrainEval) -> Text:
        """Return the model's first and latest scores, a line for each metric and precision."""
        moved = first.step != last.step
        steps = f"{first.step} → {last.step}" if moved else str(last.step)
        text = Text(f"scores after step {steps}\n", style="bold")
        for metric, by_precision in last.scores.items():
            title = wording.metric_title(metric)
            for precision, score in by_precision.items():
                before = first.scores.get(metric, {}).get(precision) if moved else None
                digits = 2 if metric.startswith("nll") else 1
                shown = f"{score:.{digits}f}" if before is None else f"{before:.{digits}f} → {score:.{digits}f}"
                text.append(f"{printable(title, limit=FACT_COLUMNS - 1):<{FACT_COLUMNS}}", style="not bold")
                text.append(f"{printable(precision, limit=12):<8}", style=palette.muted_style(self.app))
                text.append(f"{shown}\n", style="not bold")
                title = ""
        return text

    def _stage_text(self) -> Text:
        stage = self.training.stage
        if stage == "finished":
            return self._finished_text()
        if stage == "stopped":
            return self._stop_text()
        muted = palette.muted_style(self.app)
        if stage == "stopping":
            line = " Stopping after this step, with a checkpoint; Ctrl+X again stops at once and saves nothing more"
            return Text(line, style=palette.style(self.app, "warning"))
        state = self.training.state
        if state.steps:
            last = state.steps[-1]
            note = f" · {printable(state.notes[-1])}" if state.notes else ""
            line = f" epoch {last.epoch:.2f} · loss {figure(last.loss)}{note}"
            return Text(line, style=muted, no_wrap=True, overflow="ellipsis")
        return Text(" opening the checkpoints" if state.plan is None else " running the first step", style=muted)

    def _finished_text(self) -> Text:
        text = Text.assemble((" ✓ FINISHED", palette.style(self.app, "verdict-pass", bold=True)))
        result = self.training.result
        if result is None:
            return text.append("  it reported no saved checkpoint")
        text.append(f"  the result is in {printable(result.folder)}\n")
        return text.append_text(self._offer_text())

    def _stop_text(self) -> Text:
        end = self.training.state.end
        was_asked = isinstance(end, RunFailed) and end.exit_code == EXIT_INTERRUPTED
        saved = self.training.state.saved
        kept = f"saved: {printable(saved[-1].folder)} (step {saved[-1].step})" if saved else "no checkpoint was saved"
        return self._stopped_text("warning" if was_asked else "error", f" · {kept}")

    # Actions

    def action_stop(self) -> None:
        """Ask, then stop with a checkpoint; if it is stopping already, stop at once."""
        if not self.training.is_running_here:
            self.quail.say("This training is not running here, so it cannot be stopped from here")
            return
        from quail_audit.tui.screens.confirm import ConfirmScreen

        step, total = self._progress()
        question, yes = f"Stop after step {step} of {total}? A checkpoint to resume from is saved first.", "Stop"
        if self.training.stop_asked:
            question, yes = "Stop at once? The checkpoint that is being saved may be lost.", "Stop at once"
        self.app.push_screen(ConfirmScreen(question, yes), self._stop_if_sure)

    def _stop_if_sure(self, yes: bool | None) -> None:
        if yes:
            self.training.stop()
            self.show_changes()

    def _lone_request(self, result: CheckpointSaved) -> AuditRequest:
        """See MakingScreen. The audit is on the training's own data."""
        asked = self.training.request
        return AuditRequest(
            original=asked.original,
            unlearned=result.folder,
            data=asked.data,
            schemes=(asked.scheme,),
            policy=policy_here() or None,
        )

    def _command(self) -> Sequence[str]:
        started, child = self.training.state.started, self.training.child
        return started.command if started is not None else ("quail", *(child.arguments if child else ()))

    def action_focus_on(self, what: str) -> None:
        self.query_one(f"#{what}").focus()


def bar(share: float) -> str:
    """Draw progress from 0 to 1, to an eighth of a column."""
    eighths = round(min(1.0, max(0.0, share)) * BAR_COLUMNS * 8)
    whole, part = divmod(eighths, 8)
    return f"{'█' * whole}{EIGHTHS[part] if part else ''}".ljust(BAR_COLUMNS, "·")
