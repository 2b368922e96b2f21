"""Write a comparison of two audits, as text and as Markdown, with the same tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import findings, wording
from quail_audit.reports.markdown import code, plain
from quail_audit.schema.figures import LayerStatistics
from quail_audit.verdict.comparison import (
    CHANGE_MARKS,
    CHECKPOINT_THAT_CHANGES,
    Change,
    Comparison,
    SchemeComparison,
    StandingChange,
)
from quail_audit.verdict.metric_kinds import MEMBERSHIP_METRICS
from quail_audit.verdict.standings import SchemeStanding

LAYERS_SHOWN = 10  # the ones that changed most
_STYLES: dict[Change, str] = {"better": "green", "worse": "bold red", "changed": "yellow"}


@dataclass(frozen=True)
class _ChangeTable:
    """A table of changes: (what changed, before, after, which way). Its texts are not printable yet."""

    title: str
    heading: str
    rows: Sequence[tuple[str, str, str, Change]]


def show(found: Comparison, console: Console) -> None:
    """Print a comparison."""
    console.print(Text.assemble((" Quail ", "bold"), printable(f"{found.before} → {found.after}")))
    for caveat in found.caveats:
        console.print(Padding(Text(printable(caveat), style="yellow"), (0, 0, 0, 1)))
    for changes in _tables(found):
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column(changes.heading, no_wrap=True)
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        table.add_column("change", no_wrap=True)
        for what, before, after, standing in changes.rows:
            mark = Text(_mark(standing), style=_STYLES.get(standing, "dim"))
            table.add_row(*(Text(printable(cell)) for cell in (what, before, after)), mark)
        console.print(Text(f"\n {printable(changes.title)}", style="bold"))
        console.print(Padding(table, (0, 0, 0, 1)))


def render_markdown(found: Comparison) -> str:
    """Return a comparison for a comment on a pull request."""
    lines = [f"## Quail: {code(found.before)} → {code(found.after)}", ""]
    lines += [f"- {plain(caveat)}" for caveat in found.caveats]
    for changes in _tables(found):
        lines += ["", f"### {plain(changes.title)}", "", f"| {changes.heading} | before | after | change |"]
        lines.append("|---|---:|---:|---|")
        for what, before, after, standing in changes.rows:
            lines.append(f"| {code(what)} | {plain(before)} | {plain(after)} | {_mark(standing)} |")
    return "\n".join(lines) + "\n"


def _tables(found: Comparison) -> Iterator[_ChangeTable]:
    yield _ChangeTable("Formats", "format", [_scheme_row(change) for change in found.formats])
    for scheme in found.schemes:
        scores = list(_score_rows(scheme))
        if scores:
            yield _ChangeTable(f"Knowledge and scores at {scheme.scheme}", "metric", scores)
        moved = sorted((layer for layer in scheme.layers if layer.size > 0), key=lambda layer: -layer.size)
        if moved:
            title = f"Layers at {scheme.scheme}: the {min(len(moved), LAYERS_SHOWN)} of {len(moved)} that changed most"
            rows = [
                (layer.name, _layer_figures(layer.before), _layer_figures(layer.after), layer.standing)
                for layer in moved[:LAYERS_SHOWN]
            ]
            yield _ChangeTable(title, "layer", rows)
        for when, names in (("before", scheme.only_before), ("after", scheme.only_after)):
            if names:
                rows = [(name, *(("there", "") if when == "before" else ("", "there")), "unknown") for name in names]
                yield _ChangeTable(f"Layers only {when}, at {scheme.scheme}", "layer", rows[:LAYERS_SHOWN])


def _scheme_row(change: StandingChange) -> tuple[str, str, str, Change]:
    return change.scheme, _standing(change.before), _standing(change.after), change.standing


def _standing(each: SchemeStanding | None) -> str:
    if each is None:
        return wording.UNKNOWN
    return f"{wording.STANDING_MARKS[each.standing]} {findings.knowledge_in_brief(each.knowledge)}".strip()


def _score_rows(scheme: SchemeComparison) -> Iterator[tuple[str, str, str, Change]]:
    changes = {change.metric: change for change in scheme.knowledge}
    for metric in findings.metrics_in_order(changes):
        change = changes[metric]
        what = "told again" if metric in MEMBERSHIP_METRICS else "back, known"
        before, after = (findings.back_and_known(found) for found in (change.before, change.after))
        yield f"{findings.full_title(metric)}: {what}", before, after, change.standing
    for kept in scheme.utility:
        before, after = (findings.kept_in_brief(found) for found in (kept.before, kept.after))
        yield f"{findings.full_title(kept.metric)}: utility", before, after, kept.standing
    order = findings.metrics_in_order(score.metric for score in scheme.scores)
    for score in sorted(scheme.scores, key=lambda score: order.index(score.metric)):
        if score.arm.startswith(f"{CHECKPOINT_THAT_CHANGES}/"):  # the other checkpoints are the same in both audits
            before, after = (wording.mean_with_interval(found, score.metric) for found in (score.before, score.after))
            yield f"{findings.full_title(score.metric)}: {score.arm}", before, after, score.standing


def _layer_figures(layer: LayerStatistics) -> str:
    return f"{wording.layer_state(layer)}, overlap {wording.share_text(layer.overlap)}"


def _mark(standing: Change) -> str:
    return "" if standing == "unknown" else f"{CHANGE_MARKS[standing]} {standing}"
