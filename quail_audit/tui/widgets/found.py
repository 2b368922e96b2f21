"""Show all that was found about the choices: checkpoints side by side, then data and limits."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from quail_audit.schema.preflight import CheckpointFound
from quail_audit.tui.form.choices import TITLES, Found
from quail_audit.tui.theme import palette
from quail_audit.tui.words.findings import details

CHECKPOINTS = ("original", "unlearned", "retrain")
FACTS = ("architecture", "parameters", "type", "layers", "size", "format", "from")


class FoundView(VerticalScroll, can_focus=True):
    """Everything that is known before anything is measured."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Original, unlearned and reference should be alike but for the last digits of their sizes: they are one model.",
        "Layers are the weight matrices that a scheme rounds; embeddings and the head stay in full precision.",
        "A metric without data is skipped and does not affect the verdict.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
    ]

    def compose(self) -> ComposeResult:
        yield Static(id="found-text")

    def show(self, found: Found) -> None:
        """Draw what is known now."""
        self.query_one("#found-text", Static).update(self._content_of(found))

    def _content_of(self, found: Found) -> RenderableType:
        muted = palette.muted_style(self.app)
        whole = [topic for topic in CHECKPOINTS if isinstance(found.get(topic), CheckpointFound)]
        parts: list[RenderableType] = []
        if whole:
            parts += [self._checkpoints(found, whole), ""]
        for topic, title in {**TITLES, "pair": "Together"}.items():
            if topic not in found:
                continue
            rows = [(what, value) for what, value in details(found[topic]) if topic not in whole or what not in FACTS]
            if not rows:
                continue
            parts.append(Text(title, style=palette.style(self.app, "accent", bold=True)))
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            parts += [Padding(Text(value, overflow="fold"), (0, 0, 0, 2)) for what, value in rows if not what]
            for what, value in rows:
                if what:
                    table.add_row(Text(f"  {what}", style=muted), Text(value))
            parts += [*([table] if table.row_count else []), ""]
        if not parts:
            return Text(
                "What is found in the checkpoints and the data appears here before anything is measured.", muted
            )
        return Group(*parts[:-1] if parts[-1] == "" else parts)

    def _checkpoints(self, found: Found, whole: list[str]) -> Table:
        muted = palette.muted_style(self.app)
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_column(no_wrap=True)
        for _ in whole:
            table.add_column(overflow="ellipsis", no_wrap=True)
        accent = palette.style(self.app, "accent", bold=True)
        table.add_row("", *(Text(TITLES[topic], style=accent) for topic in whole))
        facts = {topic: dict(details(found[topic])) for topic in whole}
        for what in FACTS:
            if any(what in facts[topic] for topic in whole):
                cells = (Text(facts[topic].get(what, "")) for topic in whole)
                table.add_row(Text(what, style=muted), *cells)
        return table
