"""Show a run's policy: the outcome of each rule, with its figure and limit."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.core.clock import utc_of
from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.rule_rows import HEADINGS, STANDING_MARKS, policy_title, rule_row
from quail_audit.schema.figures import RuleOutcome
from quail_audit.schema.policy import Policy
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.theme import palette
from quail_audit.tui.words.policy import Row, rows_of_limits, rows_of_required, rows_of_rules, rows_of_waivers

MOST_LAYERS = 8  # named for a rule; the layer table has them all
NARROW_COLUMNS = 96  # below, a rule takes lines of its own


class PolicyView(VerticalScroll, can_focus=True):
    """The outcomes once the run is over; before that, what will be judged."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each rule: what it is about, the measured figure, the limit for it, and the outcome.",
        "Waived is a failure that the policy accepts until a date; an expired waiver fails the release by itself.",
        "Not judged: there were too few samples, or nothing that the rule is about.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("g", "scroll_home", "Top", show=False),
        Binding("G", "scroll_end", "End", show=False),
    ]

    _shown: LiveRun | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="policy-text")

    def show(self, run: LiveRun) -> None:
        """Draw what is known now."""
        self._shown = run
        self.query_one("#policy-text", Static).update(Group(*self._sections(run)))

    def on_resize(self) -> None:
        if self._shown is not None:
            self.show(self._shown)

    def _sections(self, run: LiveRun) -> Iterator[RenderableType]:
        state = run.state
        if state.started is None:
            yield Text(
                "The run has not begun; its policy is the first thing it reports.", palette.muted_style(self.app)
            )
            return
        report = state.report()
        yield Text("Judged by ", palette.muted_style(self.app)) + Text(printable(policy_title(report)), "bold")
        yield self._outcome(run)
        if state.rules:
            yield from self._outcomes(state.rules)
        if state.policy is not None:
            yield from self._requirements(state.policy.effective, utc_of(state.started.started), state.rules or None)

    def _outcome(self, run: LiveRun) -> Text:
        state, muted = run.state, palette.muted_style(self.app)
        if state.verdict is None:
            if run.is_over:
                return Text("The run was stopped before its end, so its rules were not judged.", muted)
            return Text("◌ The rules are judged when everything is measured.", palette.style(self.app, "accent"))
        outcome = state.verdict.outcome
        mark = Text(wording.OUTCOME_MARKS[outcome], palette.outcome_style(self.app, outcome))
        if not state.rules:
            line = "  This run is older than rules are: its verdict stands as it was given."
            return mark + Text(line, muted)
        counts = [(standing, sum(rule.standing == standing for rule in state.rules)) for standing in STANDING_MARKS]
        line = " · ".join(f"{count} {STANDING_MARKS[standing][2:]}" for standing, count in counts if count)
        return mark + Text(f"  {line}", muted)

    def _outcomes(self, rules: Sequence[RuleOutcome]) -> Iterator[RenderableType]:
        yield ""
        if self.scrollable_content_region.width >= NARROW_COLUMNS:
            yield self._table(rules)
            yield self._heading("Why")
            yield Padding(self._reasons(rules), (0, 0, 0, 2))
        else:
            for rule in rules:
                yield self._rule(rule)

    def _table(self, rules: Sequence[RuleOutcome]) -> Table:
        muted = palette.muted_style(self.app)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=muted)
        for heading in HEADINGS:
            table.add_column(heading, overflow="fold", no_wrap=heading == HEADINGS[-1])
        for rule in rules:
            *cells, outcome = rule_row(rule).cells
            style = palette.rule_style(self.app, rule.standing)
            table.add_row(*(Text(printable(cell)) for cell in cells), Text(outcome, style))
        return table

    def _reasons(self, rules: Sequence[RuleOutcome]) -> Table:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for rule in rules:
            mark = Text(STANDING_MARKS[rule.standing][0], palette.rule_style(self.app, rule.standing))
            table.add_row(mark, self._reason(rule, palette.style(self.app, "foreground")))
        return table

    def _rule(self, rule: RuleOutcome) -> RenderableType:
        """Return a rule on lines of its own, if a row has no room: the rule, its figure and limit, and why."""
        row, muted = rule_row(rule), palette.muted_style(self.app)
        heading = Text.assemble(
            (f"{row.outcome}  ", palette.rule_style(self.app, rule.standing)),
            (printable(row.rule), "bold"),
            (f"  {printable(row.about)}", muted),
        )
        parts: list[RenderableType] = [self._reason(rule, muted)]
        if (row.figure, row.limit) != (wording.UNKNOWN, wording.UNKNOWN):
            parts.insert(0, Text(f"{printable(row.figure)}, the limit: {printable(row.limit)}"))
        return Group(heading, Padding(Group(*parts), (0, 0, 1, 2)))

    def _reason(self, rule: RuleOutcome, style: Style) -> Text:
        text = Text(printable(rule.message), style, overflow="fold")
        if rule.layers:
            named = ", ".join(printable(layer) for layer in rule.layers[:MOST_LAYERS])
            more = len(rule.layers) - MOST_LAYERS
            text.append(f"\n{named}{f', and {more} more' if more > 0 else ''}", palette.muted_style(self.app))
        return text

    def _requirements(
        self, policy: Policy, started: datetime.datetime | None, rules: Sequence[RuleOutcome] | None
    ) -> Iterator[RenderableType]:
        yield from self._rows("Limits", rows_of_limits(policy.limits))
        yield from self._rows("Required", rows_of_required(policy))
        if rules is None:
            yield from self._rows("Other rules", rows_of_rules(policy))
        if started is not None:  # the day that decides if waivers have expired
            yield from self._rows("Waivers", rows_of_waivers(policy, started.date(), rules))

    def _rows(self, title: str, rows: Iterable[Row]) -> Iterator[RenderableType]:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(overflow="fold", max_width=max(20, self.scrollable_content_region.width // 3))
        table.add_column(overflow="fold")
        for what, value in rows:
            table.add_row(Text(what), Text(value, palette.muted_style(self.app)))
        if table.row_count:
            yield self._heading(title)
            yield Padding(table, (0, 0, 0, 2))

    def _heading(self, title: str) -> Text:
        return Text(f"\n{title}", palette.style(self.app, "accent", bold=True))
