"""Print a run's verification: the outcome, then every file and its state."""

from collections.abc import Mapping

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports.text.frame import show_heading
from quail_audit.runs.integrity.checks import FileState, IntegrityCheck, IntegrityOutcome, Verification

OUTCOME_MARKS: Mapping[IntegrityOutcome, str] = {
    "unchanged": "✓ UNCHANGED",
    "changed": "✗ CHANGED",
    "not all checked": "? NOT ALL CHECKED",
}
OUTCOME_STYLES: Mapping[IntegrityOutcome, str] = {
    "unchanged": "bold green",
    "changed": "bold red",
    "not all checked": "bold yellow",
}
_MARKS: Mapping[FileState, tuple[str, str]] = {
    "unchanged": ("✓", "green"),
    "changed": ("✗", "bold red"),
    "missing": ("✗", "bold red"),
    "added": ("✗", "bold red"),
    "not checked": ("?", "yellow"),
}


def show(found: Verification, console: Console) -> None:
    """Print the outcome, then each file's state, then how many files are in each state."""
    show_heading(f"{found.original} → {found.unlearned}", f"run {found.run_id}", console)
    console.print(Text(f" {OUTCOME_MARKS[found.outcome]}", style=OUTCOME_STYLES[found.outcome]))
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for each in found.checks:
        mark, style = _MARKS[each.standing]
        table.add_row(
            Text(f"{mark} {each.standing}", style=style),
            Text(each.role or each.part),
            Text(printable(each.name)),
            Text(printable(each.message), style="dim"),
        )
    console.print(Padding(table, (0, 0, 0, 1)))
    console.print(Padding(Text(_counts(found.checks), style="dim"), (1, 0, 0, 1)))


def _counts(checks: tuple[IntegrityCheck, ...]) -> str:
    standings = [check.standing for check in checks]
    return " · ".join(f"{standings.count(each)} {each}" for each in _MARKS if each in standings)
