"""Show what every arm answered, one sample at a time: here a reader sees the leak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Input, Tab, Tabs

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.report import FULL, arm_at
from quail_audit.tui.live.run import AnswersOf, LiveRun
from quail_audit.tui.live.sample_scores import LEAK, SampleScores, came_back_in_words, figure
from quail_audit.tui.screens.base import QuailScreen
from quail_audit.tui.widgets.key_bar import KeyBar
from quail_audit.tui.widgets.reading_pane import ReadingPane, ShownSample, clipboard_text
from quail_audit.tui.widgets.run_header import RunHeader
from quail_audit.tui.widgets.sample_list import SampleList
from quail_audit.tui.widgets.search_field import Search, SearchField
from quail_audit.verdict.metric_kinds import same_items

LEAST_PANE_COLUMNS = 66  # beside a list with every arm's score


class SamplesScreen(QuailScreen[None]):
    """Samples of one metric at a time.

    Args:
        run: the run of the samples.
        scheme: of the rounded arms.
    """

    HELP = (
        "Every sample of a metric: the truth, and what each checkpoint answered in full precision and rounded. "
        "Items that are back come first; i shows only these."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "next(1)", "Next", show=False, tooltip="The next sample; the next one found, after a search"),
        Binding(
            "p",
            "next(-1)",
            "Previous",
            show=False,
            tooltip="The previous sample; the previous one found, after a search",
        ),
        Binding("N", "next(-1)", "Previous", show=False, tooltip="The same as p, as in vi"),
        Binding("slash", "search", "Search", tooltip="Search prompts, truths and answers"),
        Binding("m", "next_metric(1)", "Metric", tooltip="Samples of the next metric"),
        Binding("M", "next_metric(-1)", "Metric back", show=False),
        Binding("x", "next_scheme", "Scheme", tooltip="Answers at the next quantization scheme"),
        Binding("i", "only_back", "Only back", tooltip="Show only the items that are back, or all"),
        Binding("f", "whole_prompt", "Full prompt", show=False, tooltip="Show all of a long prompt, or its end"),
        Binding("c", "copy", "Copy", tooltip="Copy the sample as text"),
        Binding("space", "page(1)", "Read on", show=False, tooltip="Scroll the texts by a page"),
        Binding("b", "page(-1)", "Read back", show=False, tooltip="Scroll the texts back by a page"),
        Binding("1", "panel('list')", "List", show=False),
        Binding("2", "panel('pane')", "Texts", show=False),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, run: LiveRun, scheme: str) -> None:
        super().__init__()
        self.run = run
        self.scheme = scheme
        self.metric = ""
        self._metrics: list[str] = []  # in the order of their tabs
        self._scores: SampleScores | None = None
        self._others: list[SampleScores] = []  # of the same items by other metrics
        self._seen = -1
        self._shown: AnswersOf | None = None  # in the reading pane
        self._sample: ShownSample | None = None

    def compose(self) -> ComposeResult:
        yield RunHeader(id="header")
        yield Tabs(id="metrics", classes="strip")
        with Horizontal(id="reading"):
            yield SampleList(id="list")
            yield ReadingPane(id="pane")
        yield SearchField(
            placeholder="text in a prompt, the truth or an answer; Enter searches, Escape clears", id="wanted"
        )
        yield KeyBar()

    def on_mount(self) -> None:
        self._list.focus()
        self.show_changes()

    @property
    def _list(self) -> SampleList:
        return self.query_one(SampleList)

    @property
    def _pane(self) -> ReadingPane:
        return self.query_one(ReadingPane)

    @property
    def _field(self) -> SearchField:
        return self.query_one(SearchField)

    @property
    def _search(self) -> Search | None:
        return self._field.search

    def show_changes(self) -> None:
        """See QuailScreen."""
        if self.run.changes != self._seen:
            self._seen = self.run.changes
            self._show_metrics()
            if self._scores is not None and self._scores.take_in():
                if self._list.rows:
                    self._list.grow()
                else:
                    self._list.open(self._scores)
                self._read()
        self.query_one(RunHeader).show(self.run, self.scheme)

    def show_theme(self) -> None:
        """See QuailScreen."""
        self._list.refresh()
        self._shown = None
        self._read()
        self.show_changes()

    def _show_metrics(self) -> None:
        """Add tabs for new metrics; tabs never move."""
        sampled = {metric for metric, _ in self.run.samples}
        data = self.run.state.data
        planned = set(data.samples) if data is not None else set()
        tabs = self.query_one(Tabs)
        for metric in self.run.metrics():
            if metric in sampled | planned and metric not in self._metrics:
                title = Content(printable(wording.metric_title(metric)))
                tabs.add_tab(Tab(title, id=f"metric-{len(self._metrics)}"))
                self._metrics.append(metric)
        if not self.metric and self._metrics:
            first = next((metric for metric in self._metrics if metric in sampled), self._metrics[0])
            self._open_metric(first)

    def _open_metric(self, metric: str, number: int | None = None) -> None:
        """Show a metric's samples, with the cursor on one of them."""
        self._stop_search()
        self.metric = metric
        self._scores = SampleScores(self.run, metric, self.scheme)
        self._scores.take_in()
        others = same_items(metric, self.run.metrics())
        self._others = [SampleScores(self.run, other, self.scheme) for other in others]
        self.query_one(Tabs).active = f"metric-{self._metrics.index(metric)}"
        self._list.open(self._scores, number)
        self._shown = None
        self._fit()
        self._read()

    def _fit(self) -> None:
        """Show every arm's score in the list if enough room is left for the texts."""
        full = self._list.full_width + 3
        narrow = 22
        self._list.styles.width = full if self.size.width - full >= LEAST_PANE_COLUMNS else narrow

    def on_resize(self) -> None:
        self._fit()

    # Reading

    @on(SampleList.Highlighted)
    def _read(self) -> None:
        """Show the sample under the cursor, if it is not shown already."""
        row = self._list.row
        if self._scores is None or row is None:
            self._shown = self._sample = None
            self._pane.say(self._empty_text())
            self._pane.border_title = "Nothing to read yet"
            return
        answers = self._scores.answers(row)
        if answers != self._shown:
            self._show_texts(answers, row)
        self._title(row)

    def _show_texts(self, answers: AnswersOf, row: int) -> None:
        assert self._scores is not None  # noqa: S101 - the caller has them
        same = self._shown is not None and self._shown.number == answers.number
        self._shown = answers
        try:
            texts = self.run.texts(answers)
        except QuailError as error:
            self._sample = None
            self._pane.say(f"The texts cannot be read: {printable(str(error))}")
            return
        self._sample = ShownSample(
            metric=self.metric,
            scheme=self.scheme,
            arms=self._scores.arms,
            scores=answers.scores,
            texts=texts,
            leaks=self._scores.leaks(row),
            others=tuple(self._other_lines(answers.number)),
        )
        wanted = self._search.text if self._search is not None else ""
        self._pane.read(self._sample, wanted, keep_place=same)

    def _other_lines(self, number: int) -> Iterator[str]:
        """Yield what the other metrics make of the same item, each in a line."""
        for scores in self._others:
            scores.take_in()
            row = scores.row_of(number)
            if row is None:
                continue
            arms = (f"unlearned/{FULL}", arm_at("unlearned", self.scheme), f"original/{FULL}")
            full, rounded, original = (figure(scores.score(row, arm), scores.metric) for arm in arms)
            back = f"  {LEAK} back" if scores.counts_items and scores.leaks(row) else ""
            title = wording.metric_title(scores.metric)
            yield f"{printable(title):<16} {full:>6} → {rounded:>6}  (original {original}){back}"

    def _empty_text(self) -> str:
        if self._list.only_back and self._scores is not None and len(self._scores):
            return "No item is back by this metric; i shows all of its samples."
        if self.run.is_over:
            return "No sample of this metric was answered."
        return "Samples appear here as soon as the first of them are answered."

    def _title(self, row: int) -> None:
        self._pane.border_title = Text(f"{self._list.place + 1} of {len(self._list.rows)} ── {self._change_text(row)}")
        keys = "n next  p previous  ↵ larger"
        if self._is_enlarged:
            keys = "n next  p previous  ↵ list"
        if self._search is not None:
            keys = self._search.status_text(len(self._list.found))
        self._pane.border_subtitle = Text(keys)

    def _change_text(self, row: int) -> str:
        assert self._scores is not None  # noqa: S101 - the caller has them
        text = came_back_in_words(self._scores.came_back(row), self.metric, printable(self.scheme))
        deployed = self._sample.texts.get(arm_at("unlearned", self.scheme)) if self._sample is not None else None
        return f"{text} · {printable(deployed.way)}" if deployed is not None and deployed.way else text

    def _refresh_title(self) -> None:
        row = self._list.row
        if row is not None:
            self._title(row)

    def action_next(self, step: int) -> None:
        if self._search is None:
            self._list.go_to(self._list.place + step)
        elif not self._list.next_found(step) and self._search.is_over:
            self.quail.say(f"No sample has “{self._search.text}”; Escape ends the search")

    def action_page(self, pages: int) -> None:
        pane = self._pane
        pane.scroll_relative(y=pages * max(1, pane.size.height - 2), animate=False)

    def action_whole_prompt(self) -> None:
        self._pane.show_all_of_prompt()

    def action_only_back(self) -> None:
        if self._scores is None or not self._scores.counts_items:
            self.quail.say("This metric does not decide, so its items are not counted as back")
            return
        self._list.keep_back(only=not self._list.only_back)

    def action_copy(self) -> None:
        row = self._list.row
        if self._sample is None or row is None or self._scores is None:
            self.quail.say("There is no sample to copy yet")
            return
        title = f"{wording.metric_title(self.metric)}, sample {self._scores.numbers[row]}: {self._change_text(row)}"
        self.app.copy_to_clipboard(clipboard_text(self._sample, printable(title)))
        self.quail.say("Copied the sample as text")

    # Panels

    @property
    def _is_enlarged(self) -> bool:
        return self.has_class("-enlarged")

    @on(SampleList.Enlarged)
    def action_enlarge(self) -> None:
        """Give the texts the whole screen, or the list back."""
        self.toggle_class("-enlarged")
        (self._pane if self._is_enlarged else self._list).focus()
        self._refresh_title()

    def action_panel(self, panel: str) -> None:
        if panel == "list":
            self.remove_class("-enlarged")
        self.query_one(f"#{panel}").focus()
        self._refresh_title()

    @on(Tabs.TabActivated)
    def _change_tab(self, event: Tabs.TabActivated) -> None:
        metric = self._metrics[int(str(event.tab.id).removeprefix("metric-"))]
        if metric != self.metric:
            self._open_metric(metric)

    def action_next_metric(self, step: int) -> None:
        if self.metric in self._metrics:
            self._open_metric(self._metrics[(self._metrics.index(self.metric) + step) % len(self._metrics)])

    @on(RunHeader.SchemeClicked)
    def action_next_scheme(self) -> None:
        """Show the same sample at the next scheme."""
        scheme, self.scheme = self.scheme, self.next_scheme(self.run, self.scheme)
        if scheme == self.scheme:
            return
        row = self._list.row
        number = self._scores.numbers[row] if self._scores is not None and row is not None else None
        if self.metric:
            self._open_metric(self.metric, number)
        self._seen = -1
        self.show_changes()

    def action_back(self) -> None:
        """Leave what was entered last: the search, the large texts, or the screen."""
        if self._field.display:
            self._hide_field()
        elif self._search is not None:
            self._stop_search()
            self._shown = None  # removes its marks
            self._read()
        elif self._is_enlarged:
            self.action_enlarge()
        else:
            self._stop_search()
            self.app.pop_screen()

    # Searching

    def action_search(self) -> None:
        self._field.open()

    def _hide_field(self) -> None:
        self._field.display = False
        (self._pane if self._is_enlarged else self._list).focus()

    @on(Input.Submitted, "#wanted")
    def _start_search(self, event: Input.Submitted) -> None:
        self._hide_field()
        text = event.value.strip()
        self._stop_search()
        if not text or self._scores is None:
            return
        place, rows = self._list.place, self._list.rows
        rows = rows[place:] + rows[:place]  # from the current sample, so that the first one found is the next
        self._field.start(text, self.run, map(self._scores.answers, rows), len(rows))
        self._shown = None  # so that it is marked in the texts on screen
        self._read()

    @on(SearchField.Found)
    def _show_found(self, event: SearchField.Found) -> None:
        if event.search is not self._search or self._scores is None:
            return
        is_first = not self._list.found
        event.search.done = event.searched.samples
        self._list.found |= set(event.searched.found)
        row = self._list.row
        if is_first and self._list.found and row is not None and self._scores.numbers[row] not in self._list.found:
            self._list.next_found(1)
        self._list.refresh()
        self._refresh_title()

    @on(SearchField.Ended)
    def _end_search(self, event: SearchField.Ended) -> None:
        if event.search is not self._search:
            return
        event.search.is_over = True
        if event.problem is not None:
            self.quail.say(f"The search stopped: {event.problem}", severity="warning")
        self._refresh_title()

    def _stop_search(self) -> None:
        self._field.clear_search()
        self._list.found = set()
        self._list.refresh()
