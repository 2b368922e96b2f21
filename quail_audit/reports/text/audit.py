"""Print an audit's report: verdict, formats, rules, then scores and worst layers."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable_document
from quail_audit.reports import findings, wording
from quail_audit.reports.reason_codes import said_reasons, scheme_reasons
from quail_audit.reports.rule_rows import policy_title, shown_rules
from quail_audit.reports.text.frame import show_failure, show_heading, show_notes
from quail_audit.reports.text.rules import rules_table
from quail_audit.runs.attributions import BroughtBack
from quail_audit.schema.figures import LayerStatistics, Reason, Verdict
from quail_audit.schema.report import Report, SchemeReport, arms_in_order, badness
from quail_audit.verdict.comparison import was_measured_by_recovery
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
        console.print(_verdict(report.verdict, findings.headline(report), share))
        console.print(_reasons(said_reasons(report)), end="")
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
        console.print(_matrix(report, found, wide))
    if rules := shown_rules(report):
        title = Text(f" Rules: {policy_title(report)}", style="bold")
        console.print(Group(Text(), title, Padding(rules_table(rules), (0, 0, 0, 1))))
    shown = {each.scheme: report.schemes[each.scheme] for each in found}
    if len(shown) > SCHEMES_IN_FULL:
        name = worst(report) or found[0].scheme
        shown = {name: report.schemes[name]}
    for scheme, measured in shown.items():
        for part in (
            _knowledge(report, scheme, wide),
            _kept(scheme, measured),
            _scores(scheme, measured, wide),
            _layers(scheme, measured, wide, (attributed or {}).get(scheme)),
        ):
            if part is not None:
                console.print()
                console.print(part)
    if len(shown) < len(found):
        show_notes([f"the other {len(found) - len(shown)} formats' figures are in report.json"], console)
    show_notes(_footnotes(report), console)


def _verdict(reached: Verdict, headline: str, share: str) -> RenderableType:
    """Return the verdict with its headline, and the share that was measured, if that is not all."""
    mark = (f" {wording.OUTCOME_MARKS[reached.outcome]}", wording.OUTCOME_STYLES[reached.outcome])
    line = Text.assemble(mark, (f"   {headline}" if headline else "", "bold"))
    return Group(line, _share(share)) if share else line


def _reasons(reasons: Iterable[Reason]) -> RenderableType:
    return Group(*(Padding(Text(reason.message), (0, 0, 0, 3)) for reason in reasons))


def _share(line: str) -> RenderableType:
    return Padding(Text(line, style="yellow"), (0, 0, 0, 3))


def _matrix(report: Report, found: Sequence[SchemeStanding], wide: bool) -> RenderableType:
    """Return a table of each scheme's verdict and the figures that decide it."""
    weights_only = report.request.data is None
    table = _table(wide)
    table.add_column("format", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    columns = [] if weights_only else ["back", "worst known [95 %]", "utility kept"]
    columns += ["layers at risk"] if wide or weights_only else []
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        figures = {
            "back": wording.back_text(each.knowledge) or wording.UNKNOWN,
            "worst known [95 %]": wording.worst_knowledge(each),
            "utility kept": findings.utility_kept(each, report.schemes[each.scheme]),
            "layers at risk": wording.layers_at_risk(each),
        }
        mark = Text(wording.STANDING_MARKS[each.standing], style=wording.STANDING_STYLES[each.standing])
        table.add_row(Text(each.scheme), mark, *(figures[column] for column in columns))
    parts: list[RenderableType] = []
    if report.verdict is not None and (held := wording.holds_at_line(found, weights_only=weights_only)):
        parts.append(Text(f" {held}", style="bold"))
    parts.append(Padding(table, (0, 0, 0, 1)))
    for each in found:
        if each.failure is not None:
            why = Text(f"{each.scheme}: {wording.failure_line(each.failure)}")
            parts.append(Padding(why, (0, 0, 0, 3)))
    return Group(*parts)


def _knowledge(report: Report, scheme: str, wide: bool) -> RenderableType | None:
    """Return what is known by each metric that decides; on a narrow screen without what the format leaves."""
    measured = report.schemes[scheme]
    rows = findings.knowledge_rows(measured, is_narrow=not wide)
    if not rows:
        return _reasons(scheme_reasons(report, scheme)) if scheme_reasons(report, scheme) else None
    table = _table(wide)
    headings = findings.KNOWLEDGE_HEADINGS
    shown = [place for place, heading in enumerate(headings) if wide or heading != "format leaves"]
    for place in shown:
        is_text = headings[place] in ("metric", "outcome")
        heading = headings[place] if wide else headings[place].replace("in full ", "in full\n").replace("e b", "e\nb")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=headings[place] != "outcome")
    for row in rows:
        table.add_row(*(Text(row.cells[place]) for place in shown))
    parts: list[RenderableType] = [
        Text(f" Forgetting at {scheme}", style="bold"),
        _reasons(scheme_reasons(report, scheme)),
        Padding(table, (0, 0, 0, 1)),
    ]
    if findings.has_untold_residual(measured):
        parts.append(Padding(Text(findings.NOT_TOLD_NOTE, style="dim"), (0, 0, 0, 1)))
    return Group(*parts)


def _kept(scheme: str, measured: SchemeReport) -> RenderableType | None:
    """Return what is kept of what was to stay, and how far membership can be told again."""
    parts: list[RenderableType] = []
    for headings, rows in (
        (findings.UTILITY_HEADINGS, findings.utility_rows(measured)),
        (findings.MEMBERSHIP_HEADINGS, findings.membership_rows(measured)),
    ):
        if rows:
            table = _table(wide=True)
            for place, heading in enumerate(headings):
                table.add_column(heading if place else f"{heading} at {scheme}", justify="right" if place else "left")
            for row in rows:
                table.add_row(*row)
            parts += [Text(), Padding(table, (0, 0, 0, 1))]
    return Group(*parts[1:]) if parts else None


def _scores(scheme: str, measured: SchemeReport, wide: bool) -> RenderableType | None:
    """Return each arm's score of each metric, those that decide first."""
    if not measured.metrics:
        return None
    table = _table(wide)
    arms = arms_in_order({arm for scores in measured.metrics.values() for arm in scores}, scheme)
    table.add_column("\nmetric", no_wrap=True)
    for arm in arms:
        table.add_column(Text(arm.replace("/", "\n")), justify="right", no_wrap=True)
    table.add_column("\nn", justify="right", no_wrap=True)
    figure = wording.mean_with_interval if wide else wording.mean_text
    for metric in findings.metrics_in_order(measured.metrics):
        scores = measured.metrics[metric]
        samples = max(score.samples for score in scores.values())
        table.add_row(findings.full_title(metric), *(figure(scores.get(arm), metric) for arm in arms), str(samples))
    return Group(Text(f" Scores at {scheme}", style="bold"), Padding(table, (0, 0, 0, 1)))


def _table(wide: bool) -> Table:
    return Table(box=None, padding=(0, 2 if wide else 1, 0, 0))


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
    lines = [findings.OLDER_NOTE] if was_measured_by_recovery(report) else []
    lines.extend(filter(None, [findings.population_line(report)]))
    for metric, why in report.skipped.items():
        lines.append(f"not measured: {findings.full_title(metric)} ({why})")
    reasons = {arm.reason for arm in report.arms.values() if arm.reason}
    lines.extend(f"rounded arms: {reason}" for reason in sorted(reasons))
    lines.extend(report.notes)
    lines.extend(wording.integrity_lines(report))
    return lines
