"""The report of a cure's run for a terminal: what was made, or which layers bring the memory back."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.text.frame import show_failure, show_heading, show_notes
from quail_audit.schema.events.cures import AttributionPlanned, LayerCarried, RecipePoint, UnitKind, UnitMeasured
from quail_audit.schema.report import CureReport
from quail_audit.schema.requests import CarryRequest

MOST_UNITS = 10  # of a kind, in the terminal; the report has all


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
            console.print(_units(kind, units))
    if report.points:
        console.print()
        console.print(_points(report))
    if report.chosen is not None:
        console.print(Text(f" chosen: {recipe_in_words(report.chosen.point)}; its configurations are in"))
        console.print(Text(f"   {printable(report.chosen.folder)}"))
    for saved in report.saved:
        console.print(Text(f" result: {printable(saved.folder)}"))
    show_notes(report.notes, console)


# One line for what each event says: for faces that show a cure as it goes.


def fall_line(found: AttributionPlanned) -> str:
    """What there is to attribute."""
    return (
        f"forget NLL {found.nll_full:.2f} in full precision, {found.nll_rounded:.2f} at {found.scheme}, "
        f"over {found.samples} texts"
    )


def unit_line(found: UnitMeasured) -> str:
    """What one unit has to do with it."""
    does = "brings back" if found.mode == "alone" else "spared takes away"
    return (
        f"{found.kind} {found.unit} {does} {100 * found.share:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}] "
        f"of the fall"
    )


def point_line(point: RecipePoint) -> str:
    """What a recipe costs and what still comes back."""
    return (
        f"{len(point.kept)} layers in {point.bits} bits: {wording.byte_size(point.size_bytes)}, "
        f"{point.recovery_percent:.0f} % [{point.low:.0f}, {point.high:.0f}] comes back"
    )


def carried_line(layer: LayerCarried) -> str:
    """What became of one layer."""
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
        else "rounded to nearest, every code and every scale comes back"
    )
    return lines


def _units(kind: UnitKind, units: list[UnitMeasured]) -> Table:
    alone = sorted((unit for unit in units if unit.mode == "alone"), key=lambda unit: -unit.share)
    spared = {unit.unit: unit for unit in units if unit.mode == "spared"}
    table = Table(box=None, pad_edge=True, show_edge=False)
    table.add_column(kind, no_wrap=True)
    for title in ("weights", "alone brings back", "spared takes away"):
        table.add_column(title, justify="right", no_wrap=True)
    for unit in alone[:MOST_UNITS]:
        table.add_row(
            printable(unit.unit),
            wording.count_text(unit.weights),
            *map(wording.share_of_fall, (unit, spared.get(unit.unit))),
        )
    if len(alone) > MOST_UNITS:
        table.add_row(f"… and {len(alone) - MOST_UNITS} more in the report", "", "", "")
    return table


def recipe_in_words(point: RecipePoint) -> str:
    """What a point comes to."""
    return (
        f"{len(point.kept)} layers in {point.bits} bits, {wording.byte_size(point.size_bytes)}, "
        f"{point.recovery_percent:.1f} % comes back"
    )


def _points(report: CureReport) -> Table:
    table = Table(box=None, pad_edge=True, show_edge=False)
    for title in ("spared layers", "in bits", "bytes", "comes back"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in sorted(report.points, key=lambda point: (point.bits, point.size_bytes)):
        share = f"{point.recovery_percent:.0f} % [{point.low:.0f}, {point.high:.0f}]"
        table.add_row(str(len(point.kept)), str(point.bits), wording.byte_size(point.size_bytes), share)
    return table
