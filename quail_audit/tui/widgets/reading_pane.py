"""Show a sample's prompt, truth and answers, with the words shared with the truth.

All of it comes from data and models, so it is shown as plain text that cannot act on the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports.shared_words import SharedWords, shared_words
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.report import FULL, arm_at
from quail_audit.tui.live.sample_scores import LEAK, figure, has_answers
from quail_audit.tui.theme import palette
from quail_audit.verdict.metric_kinds import scores_truth

MOST_ARMS = 5
MOST_CHARACTERS = 20_000  # of a text on screen; a text may have millions
PROMPT_CHARACTERS = 400  # of a prompt's end, which the answers continue, unless all of it is shown
NARROWEST_COLUMN = 30
WIDE_COLUMN = 40
WIDEST_BAR = 60
LABEL_COLUMNS = 16  # of a label beside its probability
POINTS = 100.0  # the highest score of a metric, except for losses


@dataclass(frozen=True)
class ShownSample:
    """The sample to read.

    Attributes:
        metric: of the sample.
        scheme: of the rounded arms.
        arms: in the order of LiveRun.arms; some may not have answered yet.
        scores: arm -> score, if it has answered.
        texts: arm -> its event, if it has answered.
        leaks: it is back.
        others: what other metrics make of the same item, each in a line.
    """

    metric: str
    scheme: str
    arms: tuple[str, ...]
    scores: Mapping[str, float]
    texts: Mapping[str, SampleScored]
    leaks: bool = False
    others: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        return next((text.prompt for text in self.texts.values()), "")

    @property
    def truth(self) -> str:
        return next((text.truth for text in self.texts.values()), "")


class ReadingPane(VerticalScroll, can_focus=True):
    """One sample at a time; scrolls if it is long."""

    DEFAULT_CLASSES = "panel"
    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Words that an answer shares with the truth, in its order, are bold and underlined: ROUGE-L counts them.",
        "Read the unlearned pair first: ▲ is back. After the score: the way to ask that brought the answer out.",
        "n and p read on; Enter gives the texts the whole screen; f shows all of a long prompt; c copies the sample.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", "Down", show=False),
        Binding("k,up", "scroll_up", "Up", show=False),
        Binding("g", "scroll_home", "Top", show=False),
        Binding("G", "scroll_end", "Bottom", show=False),
        Binding(
            "enter",
            "screen.enlarge",
            "Enlarge",
            show=False,
            tooltip="Give the texts the whole screen, or the list back",
        ),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._sample: ShownSample | None = None
        self._wanted = ""
        self._has_all_of_prompt = False

    def compose(self) -> ComposeResult:
        yield Static(id="said")
        yield Static(id="prompt", classes="text")
        yield Static(id="truth", classes="text")
        with Grid(id="answers"):
            for place in range(MOST_ARMS):
                yield Static(id=f"answer-{place}", classes="text")
        yield Static(id="others", classes="text")

    def on_mount(self) -> None:
        self.say("")

    def say(self, sentence: str) -> None:
        """Show a sentence in place of a sample."""
        self._sample = None
        for static in self.query(".text"):
            static.display = False
        said = self.query_one("#said", Static)
        said.display = True
        said.update(Text(sentence, style=palette.muted_style(self.app)))

    def read(self, sample: ShownSample, wanted: str = "", *, keep_place: bool = False) -> None:
        """Show a sample.

        Args:
            sample: the sample.
            wanted: the text of a search, to be marked.
            keep_place: the same sample was there before, with fewer answers.
        """
        self._sample, self._wanted = sample, wanted
        self.query_one("#said").display = False
        self._draw()
        if not keep_place:
            self.scroll_home(animate=False)

    def show_all_of_prompt(self, *, all_of_it: bool | None = None) -> None:
        """Show the whole of a long prompt, or its end only."""
        self._has_all_of_prompt = not self._has_all_of_prompt if all_of_it is None else all_of_it
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        sample = self._sample
        if sample is None:
            return
        self._draw_prompt(sample)
        self._draw_truth(sample)
        others = self.query_one("#others", Static)
        others.display = bool(sample.others)
        others.border_title = " The same item by other metrics: unlearned, full → rounded "
        others.update(Text("\n".join(sample.others), style=palette.style(self.app, "foreground"), no_wrap=True))
        arms = reading_order(sample)
        width = self.scrollable_content_region.width
        columns = columns_in(width, len(arms))
        grid = self.query_one("#answers", Grid)
        grid.styles.grid_size_columns = columns
        for place in range(MOST_ARMS):
            answer = self.query_one(f"#answer-{place}", Static)
            answer.display = place < len(arms)
            if place < len(arms):
                self._draw_answer(answer, sample, arms[place], width // columns)

    def _draw_prompt(self, sample: ShownSample) -> None:
        prompt = self.query_one("#prompt", Static)
        prompt.display = True
        hidden = len(sample.prompt) - PROMPT_CHARACTERS
        cut = hidden > 0 and not self._has_all_of_prompt
        title = "Prompt" if has_answers(sample.metric) or scores_truth(sample.metric) else "Text, its beginning"
        prompt.border_title = f" {title} ── its end; f shows {hidden:,} more characters " if cut else f" {title} "
        shown = f"…{sample.prompt[hidden:]}" if cut else sample.prompt
        prompt.update(self._plain(shown) if shown else Text("none was kept", style=palette.muted_style(self.app)))

    def _draw_truth(self, sample: ShownSample) -> None:
        truth = self.query_one("#truth", Static)
        reading = _readings(sample.metric)
        truth.display = bool(sample.truth or reading)
        truth.border_title = " How to read it " if reading else f" {_truth_title(sample)} "
        truth.update(Text(reading, style=palette.muted_style(self.app)) if reading else self._plain(sample.truth))

    def _draw_answer(self, static: Static, sample: ShownSample, arm: str, columns: int) -> None:
        rounded = arm == arm_at("unlearned", sample.scheme)
        leaks = rounded and sample.leaks
        score = figure(sample.scores.get(arm), sample.metric)
        text = sample.texts.get(arm)
        way = f"· {printable(text.way)} " if text is not None and text.way else ""  # that brought this answer out
        title = Text(f" {printable(arm)} ── {score} {way}")
        if leaks:
            mark = f"{LEAK} is back " if columns >= WIDE_COLUMN else f"{LEAK} "
            title.append(mark, style=palette.style(self.app, "verdict-fail", bold=True))
        static.border_title = title
        static.set_class(leaks, "-leaks")
        muted = palette.muted_style(self.app)
        if text is None:
            static.update(Text("not answered yet", style=muted))
        elif not has_answers(sample.metric):
            static.update(self._bar(sample, arm, columns - 4))
        elif text.probabilities:
            static.update(self._label(text, columns - 4, leaks=leaks))
        elif not text.answer:
            static.update(Text("it answered nothing", style=muted))
        else:
            static.update(self._mark(text, leaks=leaks))

    def _bar(self, sample: ShownSample, arm: str, columns: int) -> Text:
        """Draw a score without an answer as a bar, beside those of the other arms."""
        highest = max(*sample.scores.values(), 0.0) if sample.metric.startswith("nll") else POINTS
        score = sample.scores.get(arm, 0.0)
        filled = round(min(columns, WIDEST_BAR) * min(1.0, max(0.0, score) / highest)) if highest > 0 else 0
        leaks = arm == arm_at("unlearned", sample.scheme) and sample.leaks
        return Text("█" * filled or "▏", style=palette.style(self.app, "verdict-fail" if leaks else "plot-1"))

    def _label(self, text: SampleScored, columns: int, *, leaks: bool) -> Text:
        """Draw a classifier's labels with probabilities, likeliest first: its answer bold, the true one coloured."""
        longest = min(LABEL_COLUMNS, max(len(printable(label)) for label in text.probabilities))
        widest = max(1, min(columns, WIDEST_BAR) - longest - len(f" {100:5.1f} % "))
        shown = Text()
        for label, share in text.probabilities.items():
            is_true = label == text.truth
            colour = "verdict-fail" if is_true and leaks else "accent" if is_true else "foreground"
            style = palette.style(self.app, colour, bold=label == text.answer)
            shown.append(f"{printable(label, limit=longest):<{longest}} {100 * share:5.1f} % ", style)
            shown.append("█" * round(widest * share), style)
            shown.append("\n")
        shown.rstrip()
        self._mark_wanted(shown)
        return shown

    def _mark(self, text: SampleScored, *, leaks: bool) -> Text:
        answer = text.answer[:MOST_CHARACTERS]
        shared = shared_words(text.truth[:MOST_CHARACTERS], answer)
        colour = palette.style(self.app, "verdict-fail" if leaks else "accent")
        marked = marked_text(answer, shared, colour + Style(bold=True, underline=True))
        self._mark_wanted(marked)
        if len(text.answer) > MOST_CHARACTERS or not shared.is_whole:
            marked.append(f" … {len(text.answer):,} characters in all; words are compared up to a limit", self._faint)
        return marked

    def _plain(self, text: str) -> Text:
        shown = Text(printable(text[:MOST_CHARACTERS]))
        self._mark_wanted(shown)
        if len(text) > MOST_CHARACTERS:
            shown.append(f" … {len(text) - MOST_CHARACTERS:,} more characters", self._faint)
        return shown

    @property
    def _faint(self) -> Style:
        return palette.muted_style(self.app) + Style(italic=True)

    def _mark_wanted(self, text: Text) -> None:
        if self._wanted:
            text.highlight_words([self._wanted], Style(reverse=True), case_sensitive=False)


def _truth_title(sample: ShownSample) -> str:
    if scores_truth(sample.metric):
        return "Truth ── scored by how likely the model finds it; no answer is asked for"
    return "True label" if any(text.probabilities for text in sample.texts.values()) else "Truth"


def _readings(metric: str) -> str:
    """Say what a score without an answer means; empty if there are answers."""
    if has_answers(metric) or scores_truth(metric):
        return ""
    if metric.startswith("nll"):
        return "The mean loss of the text's tokens, in nats: the lower, the better the model knows the text."
    return "This text's own part of the AUC: near 0 the model knows the forget texts, near 50 there is no telling."


def marked_text(answer: str, shared: SharedWords, style: Style) -> Text:
    """Return an answer made printable, its shared words in a style."""
    text = Text()
    before = 0
    for start, end in shared.spans:
        text.append(printable(answer[before:start]))
        text.append(printable(answer[start:end]), style)
        before = end
    text.append(printable(answer[before:]))
    return text


def reading_order(sample: ShownSample) -> list[str]:
    """Put the unlearned pair first: it shows the leak, even if only two answers fit on the screen."""
    first = (f"unlearned/{FULL}", arm_at("unlearned", sample.scheme))
    return [arm for arm in first if arm in sample.arms] + [arm for arm in sample.arms if arm not in first]


def columns_in(width: int, arms: int) -> int:
    """Return how many answers go side by side: all of them, four, pairs, or one."""
    if width >= arms * WIDE_COLUMN:
        return max(1, arms)
    if width >= 4 * WIDE_COLUMN:
        return 4
    return 2 if width >= 2 * NARROWEST_COLUMN else 1


def clipboard_text(sample: ShownSample, title: str) -> str:
    """Write a sample as plain lines for the clipboard: whole texts that cannot act on a terminal."""
    lines = [title, f"Prompt: {printable(sample.prompt)}"]
    if sample.truth:
        lines.append(f"Truth: {printable(sample.truth)}")
    lines += _answers(sample, reading_order(sample))
    lines += [line.rstrip() for line in sample.others]
    return "\n".join(lines) + "\n"


def _answers(sample: ShownSample, arms: Sequence[str]) -> list[str]:
    lines = []
    for arm in arms:
        text = sample.texts.get(arm)
        answer = printable(text.answer) if text is not None else "not answered yet"
        way = f", {printable(text.way)}" if text is not None and text.way else ""
        if text is not None and text.probabilities:
            shares = (f"{printable(label)} {100 * share:.1f} %" for label, share in text.probabilities.items())
            answer += f" ({', '.join(shares)})"
        lines.append(f"{printable(arm)} ({figure(sample.scores.get(arm), sample.metric)}{way}): {answer}".rstrip(": "))
    return lines
