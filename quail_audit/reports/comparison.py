"""Two audits against each other, as text for a terminal and as Markdown for a comment: the same tables in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.markdown import code, plain
from quail_audit.schema.figures import LayerStatistics
from quail_audit.verdict.comparison import (
    CHECKPOINT_THAT_CHANGES,
    STANDING_MARKS,
    Change,
    Comparison,
    FormatChange,
    SchemeComparison,
)
from quail_audit.verdict.standings import SchemeStanding

LAYERS_SHOWN = 10  # those that changed most
_STYLES: dict[Change, str] = {"better": "green", "worse": "bold red", "changed": "yellow"}


@dataclass(frozen=True)
class _Changes:
    """One table: what changed, before, after, and which way. Cells may hold anybody's text."""

    title: str
    what: str
    rows: Sequence[tuple[str, str, str, Change]]


def show(found: Comparison, console: Console) -> None:
    """Print the comparison."""
    console.print(Text.assemble((" Quail ", "bold"), printable(f"{found.before} → {found.after}")))
    for caveat in found.caveats:
        console.print(Padding(Text(printable(caveat), style="yellow"), (0, 0, 0, 1)))
    for changes in _tables(found):
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column(changes.what, no_wrap=True)
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        table.add_column("change", no_wrap=True)
        for what, before, after, standing in changes.rows:
            mark = Text(_word(standing), style=_STYLES.get(standing, "dim"))
            table.add_row(*(Text(printable(cell)) for cell in (what, before, after)), mark)
        console.print(Text(f"\n {printable(changes.title)}", style="bold"))
        console.print(Padding(table, (0, 0, 0, 1)))


def render_markdown(found: Comparison) -> str:
    """The comparison for a comment."""
    lines = [f"## Quail: {code(found.before)} → {code(found.after)}", ""]
    lines += [f"- {plain(caveat)}" for caveat in found.caveats]
    for changes in _tables(found):
        lines += ["", f"### {plain(changes.title)}", "", f"| {changes.what} | before | after | change |"]
        lines.append("|---|---:|---:|---|")
        for what, before, after, standing in changes.rows:
            lines.append(f"| {code(what)} | {plain(before)} | {plain(after)} | {_word(standing)} |")
    return "\n".join(lines) + "\n"


def _tables(found: Comparison) -> Iterator[_Changes]:
    yield _Changes("Formats", "format", [_of_format(change) for change in found.formats])
    for scheme in found.schemes:
        scores = list(_scores(scheme))
        if scores:
            yield _Changes(f"What comes back, and what is known, at {scheme.scheme}", "metric", scores)
        moved = sorted((layer for layer in scheme.layers if layer.size > 0), key=lambda layer: -layer.size)
        if moved:
            title = f"Layers at {scheme.scheme}: the {min(len(moved), LAYERS_SHOWN)} of {len(moved)} that changed most"
            rows = [
                (layer.name, _layer(layer.before), _layer(layer.after), layer.standing)
                for layer in moved[:LAYERS_SHOWN]
            ]
            yield _Changes(title, "layer", rows)
        for when, names in (("before", scheme.only_before), ("after", scheme.only_after)):
            if names:
                rows = [(name, *(("there", "") if when == "before" else ("", "there")), "unknown") for name in names]
                yield _Changes(f"Layers only {when}, at {scheme.scheme}", "layer", rows[:LAYERS_SHOWN])


def _of_format(change: FormatChange) -> tuple[str, str, str, Change]:
    return change.scheme, _format(change.before), _format(change.after), change.standing


def _format(each: SchemeStanding | None) -> str:
    if each is None:
        return wording.UNKNOWN
    return f"{wording.STANDING_MARKS[each.standing]} {wording.recovery_text(each.recovery)}".strip()


def _scores(scheme: SchemeComparison) -> Iterator[tuple[str, str, str, Change]]:
    for change in scheme.recoveries:
        title = f"{wording.metric_title(change.metric)}: recovery"
        yield title, wording.recovery_text(change.before), wording.recovery_text(change.after), change.standing
    for score in scheme.scores:
        if score.arm.startswith(f"{CHECKPOINT_THAT_CHANGES}/"):  # the others are the same models in both
            before, after = (wording.mean_with_interval(found, score.metric) for found in (score.before, score.after))
            yield f"{wording.metric_title(score.metric)}: {score.arm}", before, after, score.standing


def _layer(layer: LayerStatistics) -> str:
    return f"{wording.layer_state(layer)}, overlap {wording.share_text(layer.overlap)}"


def _word(standing: Change) -> str:
    return "" if standing == "unknown" else f"{STANDING_MARKS[standing]} {standing}"
