"""Print an audit's report: verdict, formats, rules, then scores and worst layers."""

from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable_document
from quail_audit.reports import wording
from quail_audit.reports.rule_rows import policy_title, shown_rules
from quail_audit.reports.text.frame import show_failure, show_heading, show_notes
from quail_audit.reports.text.rules import rules_table
from quail_audit.runs.attributions import BroughtBack
from quail_audit.schema.figures import LayerStatistics, Verdict
from quail_audit.schema.report import Report, SchemeReport, arms_in_order, badness
from quail_audit.verdict.standings import SchemeStanding, scheme_standings, worst

WORST_LAYERS_SHOWN = 10
WIDE_COLUMNS = 112  # wide enough for the intervals of every arm and all figures of a layer
SCHEMES_IN_FULL = 4  # with more schemes, only the worst one's figures follow the matrix
NAME_COLUMNS = 34  # for a layer's name on a narrow screen
_FEW_COLUMNS = ("overlap", "survival", "noise")


def show(report: Report, console: Console, attributed: Mapping[str, BroughtBack] | None = None) -> None:
    """Print the report, with every text made printable.

    Args:
        report: an audit's report.
        console: the console to print to.
        attributed: scheme -> layer -> what rounding it alone brings back.
    """
    report = Report.model_validate(printable_document(report.model_dump(mode="json")))
    show_heading(f"{report.request.original} → {report.request.unlearned}", f"run {report.run_id}", console)
    found = scheme_standings(report)
    share = wording.measured_share_line(report)
    if report.verdict is not None:
        console.print(_verdict(report.verdict, share, is_matrix_shown=len(found) > 1))
    elif share:
        console.print(_share(share))
    for line in wording.difference_lines(report):
        console.print(Padding(Text(line, style="yellow"), (0, 0, 0, 3)))
    show_failure(report.failure, console)
    if report.failure is not None:
        console.print(Text("   Everything measured before is below and in the run's folder.", style="dim"))
    wide = console.width >= WIDE_COLUMNS
    if len(found) > 1:
        console.print()
        console.print(_matrix(report, found))
    if rules := shown_rules(report):
        title = Text(f" Rules: {policy_title(report)}", style="bold")
        console.print(Group(Text(), title, Padding(rules_table(rules), (0, 0, 0, 1))))
    shown = {each.scheme: report.schemes[each.scheme] for each in found}
    if len(shown) > SCHEMES_IN_FULL:
        name = worst(report) or found[0].scheme
        shown = {name: report.schemes[name]}
    for scheme, measured in shown.items():
        for part in (
            _forgetting(report, scheme, measured, wide),
            _layers(scheme, measured, wide, (attributed or {}).get(scheme)),
        ):
            if part is not None:
                console.print()
                console.print(part)
    if len(shown) < len(found):
        show_notes([f"the other {len(found) - len(shown)} formats' figures are in report.json"], console)
    show_notes(_footnotes(report), console)


def _verdict(reached: Verdict, share: str = "", *, is_matrix_shown: bool = False) -> RenderableType:
    """Return the verdict, the share and reasons; beside a matrix, only those that are not about one scheme."""
    lines: list[RenderableType] = [
        Text(f" {wording.OUTCOME_MARKS[reached.outcome]}", style=wording.OUTCOME_STYLES[reached.outcome]),
        *([_share(share)] if share else []),
    ]
    reasons = [reason for reason in reached.reasons if not is_matrix_shown or reason.scheme is None]
    return Group(*lines, *(Padding(Text(reason.message), (0, 0, 0, 3)) for reason in reasons))


def _share(line: str) -> RenderableType:
    return Padding(Text(line, style="yellow"), (0, 0, 0, 3))


def _matrix(report: Report, found: Sequence[SchemeStanding]) -> RenderableType:
    """Return a table of each scheme's verdict and the figures that decide it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("format", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for column in ("worst known [95 %]", "layers at risk", "utility kept"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            Text(each.scheme),
            Text(wording.STANDING_MARKS[each.standing], style=wording.STANDING_STYLES[each.standing]),
            wording.worst_knowledge(each),
            wording.layers_at_risk(each),
            wording.percent_text(each.utility_percent),
        )
    parts: list[RenderableType] = []
    if report.verdict is not None:
        parts.append(Text(f" {wording.holds_at_line(found, weights_only=report.request.data is None)}", style="bold"))
    parts.append(Padding(table, (0, 0, 0, 1)))
    for each in found:
        if each.failure is not None:
            why = Text(f"{each.scheme}: {wording.failure_line(each.failure)}")
            parts.append(Padding(why, (0, 0, 0, 3)))
    return Group(*parts)


def _forgetting(report: Report, scheme: str, measured: SchemeReport, wide: bool) -> RenderableType | None:
    if not measured.metrics:
        return None
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0))
    arms = arms_in_order({arm for scores in measured.metrics.values() for arm in scores}, scheme)
    table.add_column("\nmetric", no_wrap=True)
    for arm in arms:
        table.add_column(Text(arm.replace("/", "\n")), justify="right", no_wrap=True)
    table.add_column("\nknown [95 %]", no_wrap=True)
    figure = wording.mean_with_interval if wide else wording.mean_text
    known = wording.knowledge_with_outcome if wide else wording.knowledge_text
    for metric, scores in measured.metrics.items():
        table.add_row(
            wording.metric_title(metric),
            *(figure(scores.get(arm), metric) for arm in arms),
            known(measured.knowledge.get(metric)),
        )
    return Group(Text(f" Forgetting at {scheme}", style="bold"), Padding(table, (0, 0, 0, 1)))


def _layers(scheme: str, measured: SchemeReport, wide: bool, brought: BroughtBack | None) -> RenderableType | None:
    if not measured.layers:
        return None
    table = Table(box=None, pad_edge=True)
    table.add_column("worst layers", no_wrap=True)
    columns = ("weights", "identical", "overlap", "survival", "noise", "update/bucket") if wide else _FEW_COLUMNS
    columns = (*columns, *(("brings back",) if brought else ()))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for layer in sorted(measured.layers, key=badness)[:WORST_LAYERS_SHOWN]:
        figures = {
            "weights": wording.count_text(layer.weights),
            "identical": wording.share_text(layer.identical),
            "overlap": wording.share_text(layer.overlap),
            "survival": wording.ratio_text(layer.survival),
            "noise": wording.ratio_text(layer.noise),
            "update/bucket": wording.ratio_text(layer.update_to_bucket),
            "brings back": wording.brought_back_text((brought or {}).get(layer.name), with_interval=wide),
        }
        table.add_row(Text(_name(layer, wide)), *(figures[column] for column in columns), _state(layer))
    parts: list[RenderableType] = [Text(f" {_layers_title(scheme, measured)}", style="bold"), table]
    hidden = len(measured.layers) - WORST_LAYERS_SHOWN
    if hidden > 0:
        parts.append(Text(f" … and {hidden} more layers in the report", style="dim"))
    return Group(*parts)


def _name(layer: LayerStatistics, wide: bool) -> str:
    """Return a layer's name; on a narrow screen only its end, which tells layers apart."""
    name = layer.name
    return name if wide or len(name) <= NAME_COLUMNS else f"…{name[1 - NAME_COLUMNS :]}"


def _layers_title(scheme: str, measured: SchemeReport) -> str:
    summary = measured.summary
    if summary is None:
        return f"Layers at {scheme}: {len(measured.layers)} measured"
    return (
        f"Layers at {scheme}: {wording.state_counts(measured.layers)} · overlap {wording.share_text(summary.overlap)}"
        f" · survival {wording.ratio_text(summary.survival)} · noise {wording.ratio_text(summary.noise)}"
    )


def _state(layer: LayerStatistics) -> Text:
    if wording.layer_state(layer) == wording.NOT_COMPARABLE:
        return Text(wording.NOT_COMPARABLE, style="dim")
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
    lines.extend(wording.integrity_lines(report))
    return lines
