"""Print prescriptions, and the scores before and after one was applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.report import FULL, Report
from quail_audit.verdict.comparison import compare_scheme

if TYPE_CHECKING:
    from quail_audit.verdict.prescription import Advice


def show(advice: Advice, console: Console) -> None:
    """Print the finding and each cure that fits, the best first."""
    console.print(Padding(Text(printable(advice.finding)), (0, 0, 0, 1)))
    for number, found in enumerate(advice.prescriptions, start=1):
        console.print()
        cost = ["time depends on the data" if found.seconds is None else f"about {wording.duration(found.seconds)}"]
        cost.append(f"writes {wording.byte_size(found.size_bytes)}" if found.size_bytes else "writes no weights")
        console.print(Text.assemble((f" {number}. {found.cure}", "bold"), (f"   {', '.join(cost)}", "dim")))
        for line in (found.why, f"measured: {found.measured}"):
            console.print(Padding(Text(printable(line)), (0, 0, 0, 4)))
        for command in found.shown:
            console.print(Text(f"    {printable(command)}", style="bold"), soft_wrap=True)  # to be copied as one line


def show_change(before: Report, after: Report, console: Console) -> None:
    """Print each score of the unlearned model before and after a cure."""
    table = Table(box=None, pad_edge=True, show_edge=False)
    table.add_column("before → after", no_wrap=True)
    schemes = [name for name in after.schemes if name in before.schemes]
    for title in (FULL, *schemes):
        table.add_column(title, justify="right", no_wrap=True)
    cells: dict[str, dict[str, str]] = {}
    for scheme in schemes:
        for change in compare_scheme(before, after, scheme).scores:
            checkpoint, _, precision = change.arm.partition("/")
            if checkpoint == "unlearned":
                shown = (
                    f"{wording.mean_text(change.before, change.metric)} → "
                    f"{wording.mean_text(change.after, change.metric)}"
                )
                cells.setdefault(change.metric, {})[precision] = shown
    for metric, found in cells.items():
        row = [found.get(precision, wording.UNKNOWN) for precision in (FULL, *schemes)]
        table.add_row(printable(wording.metric_title(metric)), *row)
    console.print()
    console.print(table)
