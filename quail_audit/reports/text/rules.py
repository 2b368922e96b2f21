"""Print a policy's rules: each with its figure beside the limit, and the reason."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.rule_rows import HEADINGS, STANDING_MARKS, STANDING_STYLES, rule_row
from quail_audit.schema.figures import RuleOutcome
from quail_audit.verdict.checks import Judgement


def show(judged: Judgement, console: Console) -> None:
    """Print every rule's outcome, then its message."""
    outcome = judged.overall.outcome
    console.print(Text(f" {wording.OUTCOME_MARKS[outcome]}", style=wording.OUTCOME_STYLES[outcome]))
    console.print()
    console.print(Padding(rules_table(judged.rules), (0, 0, 0, 1)))
    console.print()
    for found in judged.rules:
        mark = Text(f" {STANDING_MARKS[found.standing][0]} ", style=STANDING_STYLES[found.standing])
        console.print(mark + Text(printable(found.message)))
        for layer in found.layers:
            console.print(Text(f"     {printable(layer)}", style="dim"))
    for note in judged.notes:
        console.print(Text(f" {printable(note)}", style="yellow"))


def rules_table(rules: Sequence[RuleOutcome]) -> RenderableType:
    """Return a table of rules: subject, figure, limit, outcome."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading)
    for found in rules:
        *cells, outcome = rule_row(found).cells
        mark = Text(outcome, style=STANDING_STYLES[found.standing])
        table.add_row(*(Text(printable(cell)) for cell in cells), mark)
    return table
