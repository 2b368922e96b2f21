"""The report of a cure's run for a terminal: what was made, and what it did to the layers."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from quail_audit import wording
from quail_audit.curing import CureReport
from quail_audit.untrusted import printable


def show(report: CureReport, console: Console) -> None:
    """Print the report."""
    request = report.request
    console.print(
        Text.assemble(
            (" Quail ", "bold"),
            printable(f"{request.unlearned} → {request.out}"),
            (f"   {request.cure}, {request.way}, {request.scheme}   run {report.run_id}", "dim"),
        )
    )
    if report.failure is not None:
        place = f"{report.failure.where}: " if report.failure.where else ""
        stopped = f" stopped ({report.failure.kind}): {printable(place + report.failure.message)}"
        console.print(Text(stopped, style="bold red"))
        if report.failure.mend:
            console.print(Text(f"   {printable(report.failure.mend)}"))
    for line in _lines(report):
        console.print(Text(f" {printable(line)}"))
    for note in report.notes:
        console.print(Padding(Text(printable(note), style="dim"), (0, 0, 0, 1)))


def _lines(report: CureReport) -> list[str]:
    lines = []
    if report.carried:
        weights = sum(layer.weights for layer in report.carried)
        moved = sum(layer.moved * layer.weights for layer in report.carried) / weights
        lines.append(
            f"{len(report.carried)} layers, {wording.count(weights)} weights on the {report.request.scheme} grid; "
            f"{100 * moved:.1f} % of the codes moved"
        )
        known = [x for x in report.carried if x.survival_before is not None and x.survival is not None]
        if known:
            before = sum(x.survival_before or 0.0 for x in known) / len(known)
            after = sum(x.survival or 0.0 for x in known) / len(known)
            lines.append(f"survival, mean of the layers: {wording.ratio(before)} → {wording.ratio(after)}")
        mended, blocks = sum(x.mended_blocks for x in report.carried), sum(x.blocks for x in report.carried)
        lines.append(
            f"{mended} of {blocks} blocks did not round as chosen and were mended"
            if mended
            else "rounded to nearest, every code and every scale comes back"
        )
    lines.extend(f"result: {saved.folder}" for saved in report.saved if saved.final)
    return lines
