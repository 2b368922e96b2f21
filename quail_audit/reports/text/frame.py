"""Print what every report for a terminal has: its heading, its failure and its notes."""

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.schema.report import Failure


def show_heading(subject: str, details: str, console: Console) -> None:
    """Print what the report is about, and beside it, dimmed, its details."""
    console.print(Text.assemble((" Quail ", "bold"), printable(subject), (f"   {printable(details)}", "dim")))


def show_failure(failure: Failure | None, console: Console) -> None:
    """Print why the run stopped and how to mend it, if it failed."""
    if failure is None:
        return
    place = f"{failure.where}: " if failure.where else ""
    console.print(Text(printable(f" stopped ({failure.kind}): {place}{failure.message}"), style="bold red"))
    if failure.mend:
        console.print(Text(f"   {printable(failure.mend)}"))


def show_notes(notes: Iterable[str], console: Console) -> None:
    """Print each note on a dimmed line of its own."""
    for note in notes:
        console.print(Padding(Text(printable(note), style="dim"), (0, 0, 0, 1)))
