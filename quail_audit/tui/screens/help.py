"""Show help: how to read the current panel, every key, every term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from quail_audit.reports import wording
from quail_audit.tui.theme import palette

TERMS: Mapping[str, str] = {
    "arm": "one checkpoint at one precision: unlearned/nf4 is the unlearned model rounded to nf4",
    "scheme": "how weights are rounded: nf4, fp4, …",
    "code": "the integer a scheme stores for a weight; the bucket is the interval of weights that get one code",
    "bucket overlap": "the share of weights with the same code in both checkpoints; near 1 they are deployed as one",
    "survival": "how much of the update the rounded model carries: 1 is all of it, 0 is none",
    "noise": "how large the rounding error is beside the update that survives",
    "update/bucket": "the median update in bucket widths; below one half it crosses a bound only by luck",
    **{str(state): meaning for state, meaning in wording.STATE_MEANINGS.items()},
    "at risk": "a layer that is drowned or erased: its forgetting may not survive rounding",
    "VerbMem": "does the model continue a text word for word? ROUGE-L F1 × 100 of what it writes",
    "KnowMem": "does it answer questions about the texts? ROUGE-L F1 × 100",
    "PrivLeak": "do its probabilities reveal that it was trained on the texts? 0 is best",
    "NLL": "mean loss of a text's tokens, in nats; low means that the model knows the text well",
    "probability": "how likely the model finds the truth: the geometric mean of its tokens' probabilities × 100",
    "extraction": "the share of the truth that comes by itself once its beginning is given, × 100",
    "known": "of what there was to forget, the share that the rounded unlearned model knows; 100 % is the original's",
    "known in full": "the same in full precision: what was not forgotten to begin with; only a reference can tell",
    "back": "an item that the model knows by over half, from what may be known to what the original knows",
    "way": "how an item was asked when it scored highest: as it is, longer prompt, paraphrase, chat template",
    "kept": "utility: a retain score of the rounded unlearned model, in percent of the original's at that scheme",
    "membership": "do its probabilities show that it was trained on the texts? It warns, unless the policy has a limit",
    "policy": "what a release must meet: limits, rules, required measurements, and waivers",
    "waiver": "a known failure that the policy accepts until a date, with a reason and an owner",
    "verdict": "fail: known or back is above its limit for sure, or kept below; pass: within; else inconclusive",
}


class HelpScreen(ModalScreen[None]):
    """The answer to `?`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss_help", "Close"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(
        self, purpose: str, panel: str, how_to_read: tuple[str, ...], keys: Mapping[str, Mapping[str, str]]
    ) -> None:
        super().__init__()
        self._purpose = purpose
        self._panel = panel
        self._how_to_read = how_to_read
        self._keys = keys

    @classmethod
    def for_screen(cls, screen: Screen[Any]) -> HelpScreen:
        """Return the help of a screen, how to read the focused panel first."""
        panel, how_to_read = "", ()
        node: Any = screen.focused
        while node is not None and not how_to_read:
            how_to_read = getattr(node, "HOW_TO_READ", ())
            panel = type(node).__name__
            node = node.parent
        return cls(getattr(screen, "HELP", ""), _words_of(panel), how_to_read, _keys_of(screen))

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog wide"):
            yield Static(id="help-text")

    def on_mount(self) -> None:
        scroll = self.query_one("#help")
        scroll.border_title = "Help"
        scroll.border_subtitle = "Escape closes"
        scroll.focus()
        self.query_one("#help-text", Static).update(self._text())

    def _text(self) -> Text:
        heading = palette.style(self.app, "accent", bold=True)
        text = Text()
        if self._purpose:
            text.append(f"{self._purpose}\n\n")
        if self._how_to_read:
            text.append(f"{self._panel}\n", style=heading)
            text.append("\n".join(f"  {line}" for line in self._how_to_read) + "\n\n")
        for group, keys in self._keys.items():
            text.append(f"Keys: {group}\n", style=heading)
            for key, what in keys.items():
                text.append(f"  {key:<14}", style="bold")
                text.append(f"{what}\n")
            text.append("\n")
        text.append("Terms\n", style=heading)
        for term, meaning in TERMS.items():
            text.append(f"  {term:<16}", style="bold")
            text.append(f"{meaning}\n")
        return text

    def action_dismiss_help(self) -> None:
        self.dismiss(None)

    def action_scroll(self, lines: int) -> None:
        self.query_one("#help").scroll_relative(y=lines, animate=False)


def _keys_of(screen: Screen[Any]) -> dict[str, dict[str, str]]:
    """Return group -> key -> what it does: of the current panel, the screen, then the app."""
    groups: dict[str, dict[str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or binding.system:
            continue
        group = "everywhere" if active.node is screen.app else "here" if active.node is screen else "this panel"
        keys = groups.setdefault(group, {})
        what = binding.tooltip or binding.description
        shown = screen.app.get_key_display(binding)
        same = next((key for key, action in keys.items() if action == what), None)
        if same is not None:
            keys[f"{same} {shown}"] = keys.pop(same)
        else:
            keys[shown] = what
    order = ("this panel", "here", "everywhere")
    return {group: groups[group] for group in order if group in groups}


def _words_of(name: str) -> str:
    """Return words for a class name: HeatMap -> Heat map."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return words.capitalize()
