"""Print what an audit would see in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports.text.frame import show_heading, show_notes
from quail_audit.reports.wording import byte_size, count_text
from quail_audit.schema.inspection import Inspection, ModulesLeft, PromptSeen, RoundedBy, TensorsOfKind

MOST_CHARACTERS = 400  # of a prompt's text
MOST_TOKENS = 40
MOST_LEFT = 8


def show(found: Inspection, console: Console) -> None:
    """Print a checkpoint's facts, tensors, schemes, tokens and prompts, then what cannot be measured."""
    facts = found.facts
    show_heading(facts.source, facts.revision or "", console)
    rows = [
        ("class", f"{facts.architecture or 'not known'}, {found.task}"),
        ("format", f"{facts.format}, {byte_size(facts.size_bytes)}, {count_text(facts.parameters)} parameters"),
        ("loaded as", found.dtype_loaded or ", ".join(facts.dtypes)),
    ]
    if found.base is not None and found.adapter is not None:
        factors = f"{found.adapter.tensors} tensors, {count_text(found.adapter.weights)} weights"
        rows.append(("adapter of", f"{found.base}; {factors}, {', '.join(found.adapter.dtypes)}"))
    rows += [("tied", each) for each in found.tied]
    if found.renamed_count:
        rows.append(("renamed", f"{found.renamed_count} tensors, as {found.renamed[0]}"))
    rows.append(("window", "not known" if found.window is None else f"{found.window} tokens"))
    rows += [(f"{token.role} token", f"{token.id} {token.text or '(not in the tokenizer)'}") for token in found.special]
    rows.append(("chat template", found.chat_template or "none"))
    _show_pairs(rows, console)
    _show_tensors(found.tensors, console)
    _show_schemes(found.schemes, console)
    for prompt in found.prompts:
        _show_prompt(prompt, console)
    if found.samples:
        counts = " · ".join(f"{metric} {count}" for metric, count in found.samples.items())
        console.print(Padding(Text(printable(f"samples: {counts}")), (1, 0, 0, 1)))
    if found.notes or found.not_measured:
        console.print()
    show_notes(found.notes, console)
    show_notes((f"not measured: {each}" for each in found.not_measured), console)


def _show_pairs(rows: Iterable[tuple[str, str]], console: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    console.print(Padding(table, (0, 0, 0, 1)))


def _show_tensors(tensors: tuple[TensorsOfKind, ...], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), title="Tensors", title_justify="left")
    for column in ("part of the model", "tensors", "weights", "stored as", "for example"):
        table.add_column(column, justify="right" if column in ("tensors", "weights") else "left")
    for kind in tensors:
        cells = (kind.kind, str(kind.tensors), count_text(kind.weights), ", ".join(kind.dtypes), kind.examples[0])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(Padding(table, (1, 0, 0, 1)))


def _show_schemes(schemes: tuple[RoundedBy, ...], console: Console) -> None:
    """Print what schemes round, those that round the same on one line."""
    alike: dict[tuple[int, int, tuple[ModulesLeft, ...]], list[RoundedBy]] = {}
    for scheme in schemes:
        alike.setdefault((scheme.layers, scheme.weights, scheme.left), []).append(scheme)
    console.print(Padding(Text("Rounded", style="italic"), (1, 0, 0, 1)))
    for (layers, weights, left), same in alike.items():
        names = ", ".join(scheme.scheme for scheme in same)
        share = f"{100 * same[0].share:.1f} % of the weights"
        console.print(
            Padding(Text(printable(f"{share}: {layers} layers, {count_text(weights)}, at {names}")), (0, 0, 0, 1))
        )
        for module in left[:MOST_LEFT]:
            times = f" ({module.count})" if module.count > 1 else ""
            line = f"left: {module.modules}{times}, {count_text(module.weights)}: {module.why}"
            console.print(Padding(Text(printable(line), style="dim"), (0, 0, 0, 3)))
        if len(left) > MOST_LEFT:
            console.print(Padding(Text(f"left: {len(left) - MOST_LEFT} more kinds", style="dim"), (0, 0, 0, 3)))


def _show_prompt(prompt: PromptSeen, console: Console) -> None:
    cut = f", {prompt.cut} more cut to the window" if prompt.cut else ""
    console.print(
        Padding(Text(printable(f"{prompt.name}: {len(prompt.ids)} tokens{cut}"), style="italic"), (1, 0, 0, 1))
    )
    tokens, ids = prompt.tokens[:MOST_TOKENS], prompt.ids[:MOST_TOKENS]
    more = f" … ({len(prompt.ids) - MOST_TOKENS} more)" if len(prompt.ids) > MOST_TOKENS else ""
    rows = [
        ("text", printable(prompt.text, limit=MOST_CHARACTERS)),
        ("tokens", " ".join(map(printable, tokens)) + more),
        ("ids", " ".join(map(str, ids)) + more),
    ]
    _show_pairs(rows, console)
