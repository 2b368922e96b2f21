"""The report for a terminal: verdict and reasons first, then forgetting, then the worst layers."""

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit import wording
from quail_audit.events import LayerStatistics, Verdict
from quail_audit.report import FULL, Report, SchemeReport, badness
from quail_audit.untrusted import printable

WORST_LAYERS_SHOWN = 10
WIDE_COLUMNS = 112  # from here on intervals of every arm and all figures of a layer fit on a line
NAME_COLUMNS = 34  # of a layer's name on a narrow screen
_FEW_COLUMNS = ("overlap", "survival", "noise")


def show(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(_heading(report))
    if report.verdict is not None:
        console.print(verdict(report.verdict))
    if report.failure is not None:
        console.print(_failure(report))
    wide = console.width >= WIDE_COLUMNS
    for scheme, measured in report.schemes.items():
        for part in (_forgetting(report, scheme, measured, wide), _layers(scheme, measured, wide)):
            if part is not None:
                console.print()
                console.print(part)
    for line in _footnotes(report):
        console.print(Padding(Text(printable(line), style="dim"), (0, 0, 0, 1)))


def verdict(reached: Verdict) -> RenderableType:
    """The verdict and its reasons in words."""
    lines = [Text(f" {wording.OUTCOME_MARKS[reached.outcome]}", style=wording.OUTCOME_STYLES[reached.outcome])]
    reasons = [Padding(Text(printable(reason.message)), (0, 0, 0, 3)) for reason in reached.reasons]
    return Group(*lines, *reasons)


def _heading(report: Report) -> Text:
    pair = f"{report.request.original} → {report.request.unlearned}"
    return Text.assemble((" Quail ", "bold"), printable(pair), (f"   run {report.run_id}", "dim"))


def _failure(report: Report) -> RenderableType:
    assert report.failure is not None  # noqa: S101 - the caller asked
    failure = report.failure
    place = f"{failure.where}: " if failure.where else ""
    lines = [Text(f" stopped ({failure.kind}): {printable(place + failure.message)}", style="bold red")]
    if failure.mend:
        lines.append(Text(f"   {printable(failure.mend)}"))
    lines.append(Text("   What was measured before is below and in the run's folder.", style="dim"))
    return Group(*lines)


def _forgetting(report: Report, scheme: str, measured: SchemeReport, wide: bool) -> RenderableType | None:
    if not measured.metrics:
        return None
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0))
    arms = [f"original/{FULL}", f"original/{scheme}", f"unlearned/{FULL}", f"unlearned/{scheme}"]
    if report.request.retrain is not None:
        arms.append(f"retrain/{FULL}")
    table.add_column("\nmetric", no_wrap=True)
    for arm in arms:
        table.add_column(arm.replace("/", "\n"), justify="right", no_wrap=True)
    table.add_column("\nrecovery [95 %]", no_wrap=True)
    figure = wording.with_interval if wide else wording.mean_only
    recovery = wording.recovery if wide else wording.recovery_figures
    for metric, scores in measured.metrics.items():
        table.add_row(
            wording.metric_title(metric),
            *(figure(scores.get(arm), metric) for arm in arms),
            recovery(measured.recovery.get(metric)),
        )
    return Group(Text(f" Forgetting at {scheme}", style="bold"), Padding(table, (0, 0, 0, 1)))


def _layers(scheme: str, measured: SchemeReport, wide: bool) -> RenderableType | None:
    if not measured.layers:
        return None
    table = Table(box=None, pad_edge=True)
    table.add_column("worst layers", no_wrap=True)
    columns = ("weights", "identical", "overlap", "survival", "noise", "update/bucket") if wide else _FEW_COLUMNS
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for layer in sorted(measured.layers, key=badness)[:WORST_LAYERS_SHOWN]:
        figures = {
            "weights": wording.count(layer.weights),
            "identical": wording.share(layer.identical),
            "overlap": wording.share(layer.overlap),
            "survival": wording.ratio(layer.survival),
            "noise": wording.ratio(layer.noise),
            "update/bucket": wording.ratio(layer.update_to_bucket),
        }
        table.add_row(_name(layer, wide), *(figures[column] for column in columns), _state(layer))
    parts: list[RenderableType] = [Text(f" {_layers_title(scheme, measured)}", style="bold"), table]
    hidden = len(measured.layers) - WORST_LAYERS_SHOWN
    if hidden > 0:
        parts.append(Text(f" … and {hidden} more layers in the report", style="dim"))
    return Group(*parts)


def _name(layer: LayerStatistics, wide: bool) -> str:
    """The end of a long name tells layers apart, so that is what a narrow screen shows."""
    name = printable(layer.name)
    return name if wide or len(name) <= NAME_COLUMNS else f"…{name[1 - NAME_COLUMNS :]}"


def _layers_title(scheme: str, measured: SchemeReport) -> str:
    summary = measured.summary
    if summary is None:
        return f"Layers at {scheme}: {len(measured.layers)} measured"
    parts = {
        "erased": summary.layers_erased,
        "drowned": summary.layers_drowned,
        "carried": summary.layers_carried,
        "untouched": summary.layers_untouched,
    }
    states = " · ".join(f"{number} {state}" for state, number in parts.items() if number)
    return (
        f"Layers at {scheme}: {states} · overlap {wording.share(summary.overlap)}"
        f" · survival {wording.ratio(summary.survival)} · noise {wording.ratio(summary.noise)}"
    )


def _state(layer: LayerStatistics) -> Text:
    if layer.state is None:
        return Text(f"{layer.nonfinite_original + layer.nonfinite_unlearned} not finite", style="bold red")
    style = wording.STATE_STYLES[layer.state]
    return Text(f"{wording.STATE_MARKS[layer.state]} {layer.state}", style=style)


def _footnotes(report: Report) -> list[str]:
    lines = []
    for metric, why in report.skipped.items():
        lines.append(f"not measured: {wording.metric_title(metric)} ({why})")
    reasons = {arm.reason for arm in report.arms.values() if arm.reason}
    lines.extend(f"rounded arms: {reason}" for reason in sorted(reasons))
    lines.extend(report.notes)
    return lines
