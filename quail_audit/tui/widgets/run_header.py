"""Show a run on one line: the pair, scheme, device, time, memory and stage."""

from __future__ import annotations

from pathlib import PurePath

from rich.text import Text
from textual.message import Message
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.theme import palette


class RunHeader(Static):
    """The header of a run: what is measured, the time so far, and the time left."""

    class SchemeClicked(Message):
        """The reader wants the next scheme."""

    def show(self, run: LiveRun, scheme: str) -> None:
        """Draw what is known now."""
        width = self.size.width
        muted = palette.muted_style(self.app)
        right = self._badge(run)
        state = run.state
        middle = []
        if scheme:
            middle.append(f"{scheme} ▾ (x)" if len(run.schemes) > 1 else scheme)
        devices = {arm.device for arm in state.arms.values()}
        middle.append(", ".join(sorted(devices)) if devices else _device(run))
        elapsed_s = state.at_s + (run.idle_s if state.end is None else 0.0)
        middle.append(wording.duration(elapsed_s))
        remaining = state.remaining_s
        if remaining is not None and not run.is_over:
            middle.append(f"~{wording.duration(max(0.0, remaining - run.idle_s))} left")
        memory = run.child.memory_bytes if run.child is not None and not run.is_over else None
        if memory is not None:
            middle.append(wording.byte_size(memory))
        facts = "  ".join(part for part in middle if part)
        room = width - len(facts) - right.cell_len - 14
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" Quail ", style=palette.style(self.app, "accent", bold=True))
        text.append(" ")
        text.append(pair_in(room, run), style="bold")
        text.append(f"  {facts}", style=muted)
        text.append(" " * max(2, width - text.cell_len - right.cell_len - 1))
        text.append_text(right)
        self.update(text, layout=False)  # always one line

    def _badge(self, run: LiveRun) -> Text:
        state = run.state
        if state.verdict is not None:
            outcome = state.verdict.outcome
            return Text(wording.OUTCOME_MARKS[outcome], style=palette.outcome_style(self.app, outcome))
        if state.end is not None or run.is_over:
            exit_code = state.end.exit_code if state.end is not None else None
            return Text(wording.unjudged_mark(exit_code), style=palette.style(self.app, "error", bold=True))
        return Text("● measuring", style=palette.style(self.app, "accent"))

    def on_click(self) -> None:
        self.post_message(RunHeader.SchemeClicked())


def pair_in(columns: int, run: LiveRun) -> str:
    """Return both checkpoints' names in so many columns: the last parts of their paths."""
    request = run.request
    if request is None:
        return run.folder.name
    for names in (
        (request.original, request.unlearned),
        (PurePath(request.original).name, PurePath(request.unlearned).name),
    ):
        text = printable(" → ".join(names))
        if len(text) <= columns:
            return text
    return text if columns < 8 else f"{text[: columns - 1]}…"


def _device(run: LiveRun) -> str:
    request = run.request
    return "" if request is None or request.device == "auto" else request.device
