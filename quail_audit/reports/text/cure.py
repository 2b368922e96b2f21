"""Print a cure's report: the checkpoint it made, or the layers that bring the memory back."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.text.frame import show_failure, show_heading, show_notes
from quail_audit.schema.events.cures import AttributionPlanned, LayerCarried, RecipePoint, UnitKind, UnitMeasured
from quail_audit.schema.report import CureReport
from quail_audit.schema.requests import CarryRequest

MOST_UNITS = 10  # of a kind; report.json has all


def show(report: CureReport, console: Console) -> None:
    """Print the report."""
    request = report.request
    subject = (
        f"{request.unlearned} → {request.out}   {request.cure}, {request.way}, {request.scheme}"
        if isinstance(request, CarryRequest)
        else f"{request.run}   {request.cure}, {request.scheme}"
    )
    show_heading(subject, f"run {report.run_id}", console)
    show_failure(report.failure, console)
    for line in _carried_lines(report.carried, request.scheme):
        console.print(Text(f" {printable(line)}"))
    if report.attributed is not None:
        found = report.attributed
        console.print(
            Text(f" forget NLL {found.nll_full:.2f} in full precision, {found.nll_rounded:.2f} at {found.scheme}")
        )
    kinds: tuple[UnitKind, ...] = ("block", "role", "layer")
    for kind in kinds:
        units = [unit for unit in report.units if unit.kind == kind]
        if units:
            console.print()
            console.print(_units_table(kind, units))
    if report.points:
        console.print()
        console.print(_points_table(report))
    if report.chosen is not None:
        console.print(Text(f" chosen: {recipe_in_words(report.chosen.point)}; its configurations are in"))
        console.print(Text(f"   {printable(report.chosen.folder)}"))
    for saved in report.saved:
        console.print(Text(f" result: {printable(saved.folder)}"))
    show_notes(report.notes, console)


# One line for each event, for faces that show a cure as it goes.


def fall_line(found: AttributionPlanned) -> str:
    """Return the drop in forget loss that is to be attributed."""
    return (
        f"forget NLL {found.nll_full:.2f} in full precision, {found.nll_rounded:.2f} at {found.scheme}, "
        f"over {found.samples} texts"
    )


def unit_line(found: UnitMeasured) -> str:
    """Return what one unit brings back, or what sparing it removes."""
    does = " brings back" if found.mode == "alone" else ", if spared, removes"
    return (
        f"{found.kind} {found.unit}{does} {100 * found.share:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}] "
        f"of the drop"
    )


def point_line(point: RecipePoint) -> str:
    """Return a recipe's size and the recovery that remains."""
    return (
        f"{len(point.kept)} layers in {point.bits} bits: {wording.byte_size(point.size_bytes)}, "
        f"{point.recovery_percent:.0f} % [{point.low:.0f}, {point.high:.0f}] comes back"
    )


def carried_line(layer: LayerCarried) -> str:
    """Return a carried layer's survival, moved codes and error."""
    mended = f", {layer.mended_blocks} of {layer.blocks} blocks mended" if layer.mended_blocks else ""
    error = (
        "" if layer.output_error is None else f", output error {100 * layer.output_error:.0f} % of nearest rounding's"
    )
    return (
        f"{layer.layer}: survival {wording.ratio_text(layer.survival_before)} → {wording.ratio_text(layer.survival)}, "
        f"{100 * layer.moved:.1f} % of the codes moved{error}{mended}"
    )


def _carried_lines(carried: tuple[LayerCarried, ...], scheme: str) -> list[str]:
    if not carried:
        return []
    weights = sum(layer.weights for layer in carried)
    moved = sum(layer.moved * layer.weights for layer in carried) / weights
    size = f"{len(carried)} layers, {wording.count_text(weights)} weights"
    lines = [f"{size} on the {scheme} grid; {100 * moved:.1f} % of the codes moved"]
    known = [layer for layer in carried if layer.survival_before is not None and layer.survival is not None]
    if known:
        before = sum(layer.survival_before or 0.0 for layer in known) / len(known)
        after = sum(layer.survival or 0.0 for layer in known) / len(known)
        lines.append(f"survival, mean of the layers: {wording.ratio_text(before)} → {wording.ratio_text(after)}")
    mended, blocks = sum(layer.mended_blocks for layer in carried), sum(layer.blocks for layer in carried)
    lines.append(
        f"{mended} of {blocks} blocks did not round as chosen and were mended"
        if mended
        else "rounding to nearest gives every code and every scale again"
    )
    return lines


def _units_table(kind: UnitKind, units: list[UnitMeasured]) -> Table:
    alone = sorted((unit for unit in units if unit.mode == "alone"), key=lambda unit: -unit.share)
    spared = {unit.unit: unit for unit in units if unit.mode == "spared"}
    table = Table(box=None, pad_edge=True, show_edge=False)
    table.add_column(kind, no_wrap=True)
    for title in ("weights", "brings back alone", "removes if spared"):
        table.add_column(title, justify="right", no_wrap=True)
    for unit in alone[:MOST_UNITS]:
        table.add_row(
            printable(unit.unit),
            wording.count_text(unit.weights),
            *map(wording.brought_back_text, (unit, spared.get(unit.unit))),
        )
    if len(alone) > MOST_UNITS:
        table.add_row(f"… and {len(alone) - MOST_UNITS} more in the report", "", "", "")
    return table


def recipe_in_words(point: RecipePoint) -> str:
    """Return a point's layers, size and remaining recovery."""
    return (
        f"{len(point.kept)} layers in {point.bits} bits, {wording.byte_size(point.size_bytes)}, "
        f"{point.recovery_percent:.1f} % comes back"
    )


def _points_table(report: CureReport) -> Table:
    table = Table(box=None, pad_edge=True, show_edge=False)
    for title in ("spared layers", "in bits", "bytes", "comes back"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in sorted(report.points, key=lambda point: (point.bits, point.size_bytes)):
        share = f"{point.recovery_percent:.0f} % [{point.low:.0f}, {point.high:.0f}]"
        table.add_row(str(len(point.kept)), str(point.bits), wording.byte_size(point.size_bytes), share)
    return table
