"""Show two runs side by side, the second also while it is being measured."""

from __future__ import annotations

import time
from pathlib import Path, PurePath
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.runs.names import EVENTS
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.screens.filtered import FilteredScreen
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.change_table import ChangeTable
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.score_changes import ScoreChanges
from quail_audit.tui.words.endings import why_it_stopped
from quail_audit.verdict.comparison import SchemeComparison, caveats, compare_scheme, schemes_of

LIVE_INTERVAL_S = 0.5  # between two comparisons while a run is being measured


class CompareScreen(FilteredScreen):
    """A run before and a run after.

    Args:
        run: the run before.
        other: the run after; None: the reader picks one first, and the older of the two is before.
    """

    HELP = (
        "Two audits side by side: their verdicts, every score with its difference, and the layers that changed most. "
        "Better and worse describe the unlearned model; the other arms are the same models in both."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "every_arm", "Arms", tooltip="Show every arm, or only those of the unlearned model"),
        Binding("x", "next_scheme", "Scheme", tooltip="Look at the next scheme that both runs have"),
        Binding("w", "swap", "Swap", tooltip="Swap before and after"),
        Binding("slash", "filter", "Filter", tooltip="Keep only some layers in the table"),
        Binding("p", "pick", "Other run", tooltip="Compare the first run with another one", show=False),
        Binding("1", "focus_on('scores')", "Scores", show=False),
        Binding("2", "focus_on('changes')", "Layers", show=False),
        Binding("escape", "back", "Back"),
    ]

    def __init__(self, run: LiveRun, other: LiveRun | None = None) -> None:
        super().__init__()
        self.before = run
        self.after = other
        self.scheme = ""
        self._every_arm = False
        self._seen: tuple[object, ...] = ()
        self._layers_seen: tuple[object, ...] = ()
        self._compared_s = 0.0

    def compose(self) -> ComposeResult:
        yield Static(id="header")
        with Horizontal(id="sides"):
            for side in ("before", "after"):
                yield Static(id=side, classes="panel")
        yield Static(id="caveats")
        with Container(id="differences"):
            yield ScoreChanges(id="scores")
            yield ChangeTable(id="changes")
        yield self.filter_field()
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#before").border_title = "Before"
        self.query_one("#after").border_title = "After"
        self.table.focus()
        if self.after is None:
            self.action_pick()
        else:
            self.show_changes()

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_changes)

    @property
    def table(self) -> ChangeTable:
        """See FilteredScreen."""
        return self.query_one(ChangeTable)

    def show_changes(self) -> None:
        """See QuailScreen."""
        after = self.after
        if after is None:
            return
        now_s = time.monotonic()
        seen = (self.before.folder, self.before.changes, after.changes, self.scheme, self._every_arm)
        live = self._seen[3:] == seen[3:] and self._seen[:1] == seen[:1] and not (self.before.is_over and after.is_over)
        if seen != self._seen and not (live and now_s - self._compared_s < LIVE_INTERVAL_S):
            self._compared_s = now_s
            if self._compare(after):
                self._seen = seen
        self._show_header(after)
        for side, run in (("before", self.before), ("after", after)):
            self.query_one(f"#{side}", Static).update(self._side_text(run))

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._seen, self._layers_seen = (), ()
        self.show_changes()

    def _compare(self, after: LiveRun) -> bool:
        """Draw the differences; return False if one of the runs has not begun."""
        one, other = self.before.request, after.request
        if self.before.state.started is None or after.state.started is None or one is None or other is None:
            return False
        schemes = schemes_of(one, other)
        if self.scheme not in schemes.both:
            self.scheme = schemes.both[0] if schemes.both else ""
        found = compare_scheme(self.before.state.report(), after.state.report(), self.scheme)
        self.query_one(ScoreChanges).show(found, self.before, after, every_arm=self._every_arm, scheme=self.scheme)
        self._show_layers(found, after)
        self._show_caveats(found, after)
        return True

    def _show_layers(self, found: SchemeComparison, after: LiveRun) -> None:
        """Fill the table again only if layers have come, so that rows do not move while the reader looks."""
        seen = (self.before.folder, self.scheme, len(found.layers))
        if seen != self._layers_seen:
            self._layers_seen = seen
            self.table.show(found.layers, state_changes(found))

    def _show_header(self, after: LiveRun) -> None:
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" Quail ", style=palette.style(self.app, "accent", bold=True)).append(" Compare  ", style="bold")
        both = self._schemes(after)
        shown = f"at {printable(self.scheme)}{' ▾' if len(both) > 1 else ''}" if self.scheme else "no scheme in both"
        names = f"{_name(self.before)}  ↔  {_name(after)}"
        room = self.size.width - text.cell_len - len(shown) - 3
        text.append(printable(names, limit=max(10, room)))
        text.append(" " * max(2, self.size.width - text.cell_len - len(shown) - 1))
        self.query_one("#header", Static).update(text.append(shown, style=palette.muted_style(self.app)))

    def _schemes(self, after: LiveRun) -> tuple[str, ...]:
        one, other = self.before.request, after.request
        return schemes_of(one, other).both if one is not None and other is not None else ()

    def _side_text(self, run: LiveRun) -> Text:
        """Return a run's verdict, or how far it is."""
        state, muted = run.state, palette.muted_style(self.app)
        name = f"  {printable(_name(run))}\n"
        if state.verdict is not None:
            outcome = state.verdict.outcome
            text = Text.assemble(
                (wording.OUTCOME_MARKS[outcome], palette.outcome_style(self.app, outcome)), (name, "bold")
            )
            return text.append(printable("; ".join(reason.message for reason in state.verdict.reasons)))
        if state.end is not None or run.is_over:
            message, _ = why_it_stopped(run)
            mark = wording.unjudged_mark(state.end.exit_code if state.end is not None else None)
            text = Text.assemble((mark, palette.style(self.app, "error", bold=True)), (name, "bold"))
            return text.append(printable(message))
        left = state.remaining_s
        remaining = f", ~{wording.duration(left)} left" if left is not None else ""
        text = Text.assemble(("● measuring", palette.style(self.app, "accent")), (name, "bold"))
        return text.append(f"{_progress_line(run)}{remaining}", style=muted)

    def _show_caveats(self, found: SchemeComparison, after: LiveRun) -> None:
        one, other = self.before.request, after.request
        notes: list[str] = []
        if one is not None and other is not None:
            schemes = schemes_of(one, other)
            notes += [f"only before: {', '.join(schemes.only_before)}"] if schemes.only_before else []
            notes += [f"only after: {', '.join(schemes.only_after)}"] if schemes.only_after else []
            notes += caveats(one, other)
        summarized = self.scheme in self.before.state.summaries and self.scheme in after.state.summaries
        if summarized and (found.only_before or found.only_after):
            notes.append(f"{len(found.only_before)} layers only before, {len(found.only_after)} only after")
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f" ! {printable('; '.join(notes))}", style=palette.style(self.app, "warning"))
        caveats_line = self.query_one("#caveats", Static)
        caveats_line.display = bool(notes)
        caveats_line.update(text)

    # Actions

    def action_pick(self) -> None:
        from quail_audit.tui.screens.pick_run import PickRunScreen

        self.app.push_screen(PickRunScreen(self.before.folder, self.quail.settings.recent_runs), self._take_pick)

    def _take_pick(self, folder: Path | None) -> None:
        if folder is not None:
            other = self.quail.live_run(folder)
            self.before, self.after = sorted((self.before, other), key=_last_write_s)
            self._seen, self._layers_seen = (), ()
            self.show_changes()
        elif self.after is None:
            self.app.pop_screen()

    def action_swap(self) -> None:
        if self.after is not None:
            self.before, self.after = self.after, self.before
            self._seen, self._layers_seen = (), ()
            self.show_changes()

    def action_every_arm(self) -> None:
        self._every_arm = not self._every_arm
        self.show_changes()

    def action_next_scheme(self) -> None:
        both = self._schemes(self.after) if self.after is not None else ()
        if len(both) < 2:
            self.quail.say("The two runs have no other scheme in common")
            return
        self.scheme = both[(both.index(self.scheme) + 1) % len(both)]
        self.show_changes()

    def action_focus_on(self, what: str) -> None:
        self.query_one(f"#{what}").focus()


def state_changes(found: SchemeComparison) -> str:
    """Count changes of state: "21 erased → carried · 5 drowned → carried · 2 as before"."""
    moved = [((a, b), n) for (a, b), n in found.states if a != b]
    parts = [f"{n} {a or 'no state'} → {b or 'no state'}" for (a, b), n in moved]
    same = sum(n for (a, b), n in found.states if a == b)
    return " · ".join([*parts, *([f"{same} as before"] if same else [])])


def _last_write_s(run: LiveRun) -> float:
    """Return when a run was last written, in seconds since the epoch."""
    try:
        return (run.folder / EVENTS).stat().st_mtime
    except OSError:
        return time.time()


def _checkpoint(run: LiveRun) -> str:
    return run.request.unlearned if run.request is not None else run.folder.name


def _name(run: LiveRun) -> str:
    return PurePath(_checkpoint(run)).name


def _progress_line(run: LiveRun) -> str:
    state = run.state
    if state.plan is None:
        return "opening the checkpoints"
    running = [arm for arm, report in state.arms.items() if report.elapsed_s is None]
    if not running and state.quantizing_now is not None:
        return printable(wording.quantizing_line(*state.quantizing_now, state.at_s))
    if not running:
        return f"{state.layers_done} of {state.plan.layers} layers"
    return f"{printable(running[-1])}: {state.samples_done.get(running[-1], 0)} of {state.plan.samples_per_arm} samples"
