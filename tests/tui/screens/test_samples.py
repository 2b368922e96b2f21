"""The samples screen: what came back stands first, texts are shown as they are, every key does what it says."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.style import Style
from textual.pilot import Pilot
from textual.widgets import Input, Static, Tabs

from quail_audit.reports.shared_words import shared_words
from quail_audit.runs.names import EVENTS
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.events.lines import Event, to_line
from quail_audit.schema.policy import Limits
from quail_audit.tui.app import QuailApp
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.sample_scores import (
    BY_NUMBER,
    CAME_BACK,
    SampleScores,
    came_back_in_words,
    change,
    low_is_known,
)
from quail_audit.tui.live.sample_search import search
from quail_audit.tui.screens.samples import SamplesScreen
from quail_audit.tui.widgets.reading_pane import MOST_CHARACTERS, ReadingPane, columns_in, marked_text
from quail_audit.tui.widgets.sample_list import SampleList
from quail_audit.verdict.evidence import weigh
from tests.support.app_driver import screen_text, settled, until
from tests.support.every_metric import WAYS, every_metric
from tests.support.made_runs import METRICS, events, write_run

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold red]loud[/] \u202eevil\u202c \x9b31m\r\n\t\u05e9\u05dc\u05d5\u05dd"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@asynccontextmanager
async def opened(
    folder: Path, size: tuple[int, int] = (120, 40)
) -> AsyncIterator[tuple[QuailApp, Pilot[None], SamplesScreen]]:
    """The samples of a run that has been read to its end."""
    app = QuailApp(folder)
    async with app.run_test(size=size) as pilot:
        run = next(iter(app.live_runs.values()))
        await until(pilot, lambda: run.is_over)
        screen = SamplesScreen(run, run.schemes[0])
        await app.push_screen(screen)
        await until(pilot, lambda: screen.is_mounted)
        await settled(pilot)
        yield app, pilot, screen


def read(folder: Path) -> LiveRun:
    """A whole run."""
    run = LiveRun(folder)
    while not run.is_over:
        run.advance(0.1)
    return run


def scores_of(run: LiveRun, metric: str = "verbmem_forget") -> SampleScores:
    scores = SampleScores(run, metric, "nf4")
    scores.take_in()
    return scores


def with_texts(change_of: Callable[[SampleScored], dict[str, object]], samples: int = 4) -> Iterator[Event]:
    for event in events(blocks=1, samples=samples):
        yield event.model_copy(update=change_of(event)) if isinstance(event, SampleScored) else event


def numbers(screen: SamplesScreen) -> list[int]:
    """Samples as they stand."""
    assert screen._scores is not None
    return [screen._scores.numbers[row] for row in screen.query_one(SampleList).rows]


def number(screen: SamplesScreen) -> int:
    return numbers(screen)[screen.query_one(SampleList).place]


# The table of scores


@pytest.mark.parametrize("metric", METRICS)
def test_what_came_back_is_the_difference_of_the_unlearned_pair(tmp_path: Path, metric: str) -> None:
    run = read(write_run(tmp_path / "run", events(blocks=1, samples=30)))
    scores = scores_of(run, metric)
    plain = {answers.number: answers for answers in run.answers(metric, "nf4")}
    assert sorted(scores.numbers) == sorted(plain)
    for row, sample in enumerate(scores.numbers):
        assert scores.answers(row) == plain[sample]
        full, rounded = (plain[sample].scores[f"unlearned/{precision}"] for precision in ("full", "nf4"))
        assert scores.came_back(row) == (full - rounded if low_is_known(metric) else rounded - full)


@pytest.mark.parametrize("metric", ["verbmem_forget", "nll_forget"])
def test_orders_put_the_best_known_first_and_the_unknown_last(tmp_path: Path, metric: str) -> None:
    made = [
        event
        for event in events(blocks=1, samples=20)
        if not (isinstance(event, SampleScored) and event.arm == "unlearned/nf4" and event.sample % 5 == 0)
    ]
    scores = scores_of(read(write_run(tmp_path / "run", iter(made))), metric)
    known = [scores.came_back(row) for row in scores.sorted_rows(CAME_BACK)]
    told = [value for value in known if value is not None]
    assert len(told) == 16
    assert known == [*sorted(told, reverse=True), *[None] * 4]
    assert [scores.numbers[row] for row in scores.sorted_rows(BY_NUMBER)] == list(range(20))
    for arm in scores.arms:
        column = [scores.score(row, arm) for row in scores.sorted_rows(arm)]
        values = [value for value in column if value is not None]
        assert values == sorted(values, reverse=not low_is_known(metric))


def test_rows_keep_their_place_while_samples_come_in(tmp_path: Path) -> None:
    made = list(events(blocks=1, samples=12))
    folder = write_run(tmp_path / "run", iter(made))
    run = LiveRun(folder)
    scores = SampleScores(run, "verbmem_forget", "nf4")
    before: list[int] = []
    while not run.is_over:
        run.advance(0.0)
        scores.take_in()
        assert scores.numbers[: len(before)] == before
        before = list(scores.numbers)
    assert not scores.take_in()
    assert len(scores) == 12


def test_figures_in_words() -> None:
    assert change(74.25, "verbmem_forget") == "+74.2"
    assert change(-0.3, "verbmem_forget") == "−0.3"
    assert change(-0.001, "nll_forget") == "0.00"
    assert change(None, "verbmem_forget") == "—"
    assert came_back_in_words(74.0, "verbmem_forget", "nf4") == "came back: +74.0 points"
    assert came_back_in_words(-1.0, "verbmem_retain", "nf4") == "nf4 changes it by −1.0 points"
    assert came_back_in_words(None, "verbmem_forget", "nf4") == "not answered at nf4 yet"


def test_a_leak_is_more_than_half_of_what_was_forgotten(tmp_path: Path) -> None:
    failing = scores_of(read(write_run(tmp_path / "fail", events(blocks=1, samples=5))))
    passing = scores_of(read(write_run(tmp_path / "pass", events(blocks=1, samples=5, outcome="pass"))))
    retain = scores_of(read(tmp_path / "fail"), "verbmem_retain")
    assert all(failing.leaks(row) for row in range(5))
    assert not any(passing.leaks(row) or retain.leaks(row) for row in range(5))


@pytest.mark.parametrize("retrain", [True, False])
@pytest.mark.parametrize("metric", ["verbmem_forget", "knowmem_extraction_strength_forget"])
def test_items_are_back_and_kept_as_the_verdict_counts_them(tmp_path: Path, retrain: bool, metric: str) -> None:
    """Against the audit's own counts, of items with every kind of scores."""
    rng = random.Random(7)
    choices = {
        "original/full": (2.0, 60.0, 95.0),
        "unlearned/full": (0.0, 0.0, 4.0, 46.0, 90.0),
        "unlearned/nf4": (0.0, 46.0, 90.0, 100.0),
        "retrain/full": (0.0, 4.0, 12.0),
    }
    scores = {arm: [rng.choice(known) for _ in range(60)] for arm, known in choices.items()}
    made = [
        event.model_copy(update={"score": scores[event.arm][event.sample]})
        if isinstance(event, SampleScored) and event.arm in scores
        else event
        for event in every_metric(events(blocks=1, samples=60, retrain=retrain))
    ]
    run = read(write_run(tmp_path / "run", iter(made)))
    found = scores_of(run, metric)
    arms = [arm for arm in found.arms if arm in scores]
    items = {metric: {arm: tuple(scores[arm]) for arm in arms}}
    expected = weigh(run.state.report().model_copy(update={"items": items}), Limits()).knowledge["nf4"][metric]
    assert expected.back is not None
    assert expected.kept is not None
    rows = range(len(found))
    assert sum(found.leaks(row) for row in rows) == found.backs().sum() == expected.back.count > 0
    assert sum(found.is_kept(row) for row in rows) == expected.kept.count > 0
    assert list(found.backs()) == [found.leaks(row) for row in rows]
    in_order = found.sorted_rows(CAME_BACK)
    assert [found.leaks(row) for row in in_order] == sorted((found.leaks(row) for row in rows), reverse=True)


# Searching


def test_search_looks_into_prompt_truth_and_every_answer(tmp_path: Path) -> None:
    def made(event: SampleScored) -> dict[str, object]:
        if event.metric != "verbmem_forget":
            return {}
        places = {0: "prompt", 1: "truth", 2: "answer"}
        wanted = event.sample != 2 or event.arm == "retrain/full"
        return {places[event.sample]: "It was a NEEDLE."} if event.sample in places and wanted else {}

    run = read(write_run(tmp_path / "run", with_texts(made)))
    scores = scores_of(run)
    reports = list(search(run, map(scores.answers, range(4)), "needle"))
    assert [report.samples for report in reports] == [4]
    assert sorted(reports[0].found) == [0, 1, 2]
    assert not next(search(run, map(scores.answers, range(4)), "haystack")).found


@pytest.mark.asyncio
async def test_search_goes_to_the_next_that_has_it_and_is_cleared(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run", events(blocks=1, samples=120))) as (app, pilot, screen):
        listed = screen.query_one(SampleList)
        await pilot.press("slash", *"Kemi", "enter")
        await until(pilot, lambda: screen._search is not None and screen._search.is_over)
        found = {sample for sample in range(120) if sample % 5 in (0, 4)}  # in the prompt, or as the next name
        assert listed.found == found
        assert number(screen) in found
        for key in ("n", "n", "p", "N"):
            before = listed.place
            await pilot.press(key)
            assert number(screen) in found
            assert listed.place != before
        await until(pilot, lambda: "48 found" in screen_text(pilot))
        await pilot.press("escape")
        assert screen._search is None
        assert not listed.found
        await pilot.press("slash", *"no such text", "enter")
        await until(pilot, lambda: screen._search is not None and screen._search.is_over)
        await pilot.press("n")
        assert any("No sample has" in line for line in app.log_lines)
        await pilot.press("slash", "escape")  # leaves the entry, not the search
        assert not screen.query_one("#wanted", Input).display
        assert screen._search is not None
        await pilot.press("escape", "escape")
        await until(pilot, lambda: app.screen is not screen)


@pytest.mark.asyncio
async def test_search_says_where_the_run_is_gone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    async with opened(folder) as (app, pilot, _):
        (folder / EVENTS).unlink()
        await pilot.press("slash", "a", "enter")
        await until(pilot, lambda: any("The search stopped" in line for line in app.log_lines))
        await pilot.press("n")
        await until(pilot, lambda: "cannot be read" in screen_text(pilot))
        await pilot.press("c")
        assert any("no sample to copy" in line for line in app.log_lines)


# Reading


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_the_leak_is_on_screen_at_every_size(tmp_path: Path, size: tuple[int, int]) -> None:
    async with opened(write_run(tmp_path / "run"), size) as (_, pilot, screen):
        shown = screen_text(pilot)
        assert "1 of 24 ── came back: +" in shown
        for heading in ("Prompt", "Truth", "unlearned/full", "unlearned/nf4", "▲"):
            assert heading in shown
        assert screen.query_one(ReadingPane).max_scroll_x == 0
        assert "lower rents" in shown  # the unlearned model's answer, and the rounded one's
        assert shown.count("erase debt") >= 2


@pytest.mark.asyncio
async def test_every_key(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", events(blocks=1, schemes=("nf4", "fp4"), samples=30))
    async with opened(folder) as (app, pilot, screen):
        listed, pane = screen.query_one(SampleList), screen.query_one(ReadingPane)
        for key, place in (
            ("j", 1), ("down", 2), ("k", 1), ("up", 0), ("n", 1), ("p", 0), ("G", 29), ("g", 0),
            ("end", 29), ("home", 0), ("k", 0),
        ):  # fmt: skip
            await pilot.press(key)
            assert listed.place == place, key
        await pilot.press("pagedown")
        assert listed.place > 5
        await pilot.press("pageup")
        assert listed.place == 0
        orders = [CAME_BACK, BY_NUMBER, "original/full", "original/nf4", "unlearned/full", "unlearned/nf4"]
        for order in [*orders[1:], "retrain/full", CAME_BACK, BY_NUMBER]:
            sample = number(screen)
            await pilot.press("o")
            assert (listed.order, number(screen)) == (order, sample)
            assert order in str(listed.border_subtitle)
        assert numbers(screen) == list(range(30))
        await pilot.press("O", "r")
        assert listed.order == CAME_BACK
        sample = number(screen)
        await pilot.press("x")
        assert (screen.scheme, number(screen)) == ("fp4", sample)
        await pilot.press("enter")
        await until(pilot, lambda: not listed.display or listed.region.width == 0)
        assert screen.focused is pane
        await pilot.press("j", "space", "b", "n")
        await pilot.press("escape")
        await until(pilot, lambda: listed.region.width > 0)
        await pilot.press("2")
        assert screen.focused is pane
        await pilot.press("1")
        assert screen.focused is listed
        await pilot.press("m")
        assert screen.metric == "knowmem_forget"
        await pilot.press("M", "M")
        assert screen.metric == screen._metrics[-1]
        await pilot.press("c")
        assert "unlearned/fp4" in app.clipboard
        await pilot.click("#metric-1")
        await until(pilot, lambda: screen.metric == screen._metrics[1])
        assert screen.query_one(Tabs).active == "metric-1"
        await pilot.click(SampleList, offset=(5, 6))
        assert listed.place == 3
        await pilot.click(SampleList, offset=(5, 6), times=2)
        await until(pilot, lambda: screen.has_class("-enlarged"))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: app.screen is not screen)


@pytest.mark.asyncio
async def test_the_way_that_brought_an_answer_out_stands_beside_its_score(tmp_path: Path) -> None:
    made = every_metric(events(blocks=1, samples=8))
    async with opened(write_run(tmp_path / "run", made), (160, 50)) as (app, pilot, screen):
        while screen.metric != "knowmem_forget":
            await pilot.press("m")
        for way in WAYS:
            while WAYS[number(screen) % 4] != way:
                await pilot.press("n")
            await until(pilot, lambda way=way: f"points{f' · {way}' if way else ''} ─" in screen_text(pilot))
            await pilot.press("c")
            rounded = next(line for line in app.clipboard.splitlines() if line.startswith("unlearned/nf4"))
            assert (f", {way}): " in rounded) if way else (", " not in rounded.partition(":")[0])
            unrounded = next(line for line in app.clipboard.splitlines() if line.startswith("unlearned/full"))
            assert ", " not in unrounded.partition(":")[0]
            await pilot.press("n")


@pytest.mark.asyncio
async def test_other_scores_of_the_same_item_stand_below_its_answers(tmp_path: Path) -> None:
    made = every_metric(events(blocks=1, samples=8))
    async with opened(write_run(tmp_path / "run", made), (160, 50)) as (_, pilot, screen):
        await until(pilot, lambda: "The same item by other metrics" in screen_text(pilot))
        lines = screen_text(pilot).splitlines()
        rounded = next(
            a.scores["unlearned/nf4"] for a in screen.run.answers("verbmem_forget", "nf4") if a.number == number(screen)
        )
        for title, lower, is_counted in (
            ("VerbMem, prob.", 0, True),
            ("VerbMem, extr.", 1, True),
            ("VerbMem, exact", 2, False),
        ):
            line = next(line for line in lines if title in line and "→" in line)
            assert f"→ {min(100.0, rounded - lower):>6.1f}  (original" in line
            assert ("▲ back" in line) == is_counted
        while screen.metric != "verbmem_probability_forget":
            await pilot.press("m")
        await until(pilot, lambda: "no answer is asked for" in screen_text(pilot))
        assert "erase debt" in screen_text(pilot)
        assert "█" in screen_text(pilot)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_i_shows_only_the_items_that_are_back(tmp_path: Path, size: tuple[int, int]) -> None:
    def made(event: SampleScored) -> dict[str, object]:
        return {"score": 0.0} if event.arm == "unlearned/nf4" and event.sample % 3 else {}

    async with opened(write_run(tmp_path / "run", with_texts(made, samples=12)), size) as (app, pilot, screen):
        back = [0, 3, 6, 9]
        assert "4 of 12 back" in screen_text(pilot)
        assert sorted(numbers(screen)[:4]) == back
        await pilot.press("i")
        await until(pilot, lambda: "▲ 4 of 12 only" in screen_text(pilot))
        assert sorted(numbers(screen)) == back
        await pilot.press("o", "G", "r", "O")
        assert sorted(numbers(screen)) == back
        await pilot.press("m")
        assert sorted(numbers(screen)) == back
        while screen.metric != "nll_forget":
            await pilot.press("m")
        assert len(numbers(screen)) == 12  # its items are not counted as back
        await pilot.press("i")
        assert "not counted as back" in app.log_lines[-1]
        while screen.metric != "verbmem_forget":
            await pilot.press("m")
        await pilot.press("i")
        assert len(numbers(screen)) == 12


@pytest.mark.asyncio
async def test_if_no_item_is_back_the_empty_list_says_so(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run", events(blocks=1, samples=4, outcome="pass"))) as (_, pilot, screen):
        await pilot.press("i")
        await until(pilot, lambda: "No item is back by this metric" in screen_text(pilot))
        assert "none is back" in screen_text(pilot)
        await pilot.press("n", "G", "enter", "escape", "c", "i")
        await until(pilot, lambda: len(numbers(screen)) == 4)


@pytest.mark.asyncio
async def test_a_metric_without_answers_shows_its_text_and_scores(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run")) as (_, pilot, screen):
        while screen.metric != "nll_forget":
            await pilot.press("m")
        await until(pilot, lambda: "mean loss of the text's tokens" in screen_text(pilot))
        shown = screen_text(pilot)
        assert "nats" in shown
        assert "█" in shown


@pytest.mark.asyncio
async def test_a_long_prompt_shows_its_end_until_all_is_asked_for(tmp_path: Path) -> None:
    prompt = "beginning " + "word " * 400 + "the very end"
    made = with_texts(lambda event: {"prompt": prompt})
    async with opened(write_run(tmp_path / "run", made), (80, 24)) as (_, pilot, _):
        assert "the very end" in screen_text(pilot)
        assert "beginning" not in screen_text(pilot)
        await pilot.press("f")
        await until(pilot, lambda: "beginning" in screen_text(pilot))


@pytest.mark.asyncio
async def test_hostile_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    made = with_texts(lambda event: {"prompt": HOSTILE, "truth": HOSTILE, "answer": HOSTILE})
    async with opened(write_run(tmp_path / "run", made)) as (app, pilot, _):
        shown = screen_text(pilot)
        assert not set("\x1b\x07\x9b\u202e\r") & set(shown)
        assert "[bold red]loud[/]" in shown
        assert "\u05e9\u05dc\u05d5\u05dd" in shown
        await pilot.press("c")
        assert not set("\x1b\x07\x9b\u202e\r") & set(app.clipboard)
        assert "loud" in app.clipboard
        await pilot.press("slash", *"[/]", "enter")
        await until(pilot, lambda: "“[/]”" in screen_text(pilot))


@pytest.mark.asyncio
async def test_empty_and_very_long_texts(tmp_path: Path) -> None:
    long = "word " * 200_000

    def made(event: SampleScored) -> dict[str, object]:
        return {"prompt": "", "truth": "", "answer": ""} if event.sample else {"truth": long, "answer": long}

    async with opened(write_run(tmp_path / "run", with_texts(made, samples=2)), (80, 24)) as (_, pilot, screen):
        await pilot.press("o")
        while number(screen):
            await pilot.press("p")
        await pilot.press("n")
        await pilot.pause()
        assert "none was kept" in screen_text(pilot)
        assert "answered nothing" in screen_text(pilot)
        await pilot.press("p", "G")
        await pilot.pause()
        assert len(str(screen.query_one("#truth", Static).render())) < MOST_CHARACTERS + 100


def test_marked_text_is_all_of_the_text_with_the_shared_words_in_style() -> None:
    answer = "Erase debt\x1b after 47 [tests]"
    style = Style(bold=True, underline=True)
    marked = marked_text(answer, shared_words("erase after [tests]", answer), style)
    assert marked.plain == "Erase debt\\x1b after 47 [tests]"
    assert [marked.plain[span.start : span.end] for span in marked.spans] == ["Erase", "after", "tests"]


def test_answers_stand_side_by_side_as_far_as_there_is_room() -> None:
    assert [columns_in(width, 5) for width in (40, 60, 159, 160, 199, 200)] == [1, 2, 2, 4, 4, 5]


# While it runs


@pytest.mark.asyncio
async def test_new_samples_move_neither_the_cursor_nor_the_order(tmp_path: Path) -> None:
    made = list(events(blocks=1, samples=8))
    scored = [place for place, event in enumerate(made) if isinstance(event, SampleScored)]
    tail = made[scored[30] :]
    folder = write_run(tmp_path / "run", iter(made[: scored[30]]))
    async with opened(folder) as (_, pilot, screen):
        screen.query_one(SampleList).order = BY_NUMBER
        while screen.metric != "knowmem_forget":
            await pilot.press("m")
        assert len(numbers(screen)) == 6  # of the first arm
        await pilot.press("j", "j")
        sample, before = number(screen), numbers(screen)
        assert "not answered at nf4 yet" in screen_text(pilot)
        with (folder / EVENTS).open("a") as file:
            file.write("".join(to_line(event) + "\n" for event in tail))
        later = read(folder)
        screen.run, screen._seen = later, -1
        assert screen._scores is not None
        screen._scores._run = later
        screen.show_changes()
        await until(pilot, lambda: len(numbers(screen)) == 8)
        assert numbers(screen)[:6] == before
        assert number(screen) == sample
        assert "r again" in str(screen.query_one(SampleList).border_subtitle)
        assert "came back: +" in screen_text(pilot)
        await pilot.press("r")
        assert "r again" not in str(screen.query_one(SampleList).border_subtitle)
        assert number(screen) == sample


@pytest.mark.asyncio
async def test_a_run_without_samples_says_so(tmp_path: Path) -> None:
    made = [event for event in events(blocks=1, samples=1) if not isinstance(event, SampleScored)]
    async with opened(write_run(tmp_path / "run", iter(made))) as (_, pilot, _):
        assert "No sample of this metric was answered" in screen_text(pilot)
        await pilot.press("j", "n", "o", "r", "c", "m", "f", "space", "enter", "escape")
        await pilot.pause()


@pytest.mark.asyncio
async def test_ten_thousand_samples_are_shown_and_sorted(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", events(blocks=1, samples=1)))
    for arm in run.arms("nf4"):
        samples = run.samples["verbmem_forget", arm]
        place = samples.offsets[0]
        samples.numbers.extend(range(1, 10_000))
        samples.scores.extend(random.Random(arm).uniform(0, 100) for _ in range(1, 10_000))
        samples.offsets.extend([place] * 9_999)
    app = QuailApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = SamplesScreen(run, "nf4")
        await app.push_screen(screen)
        await pilot.pause()
        assert sorted(numbers(screen)) == list(range(10_000))
        for key, place in (("G", -1), ("k", -2), ("g", 0), ("j", 1)):
            await pilot.press(key)
            await pilot.pause()
            assert number(screen) == numbers(screen)[place]


# Classifiers


@pytest.mark.asyncio
async def test_a_classifiers_answer_is_a_label_with_the_probability_of_each(tmp_path: Path) -> None:
    def labelled(event: SampleScored) -> dict[str, object]:
        real = 0.875 if event.arm != "unlearned/full" else 0.125
        shares = sorted({"real": real, "fa\x1bke": 1 - real}.items(), key=lambda pair: -pair[1])
        return {"truth": "real", "answer": shares[0][0], "probabilities": dict(shares)}

    async with opened(write_run(tmp_path / "run", with_texts(labelled)), (120, 40)) as (_, pilot, _screen):
        await until(pilot, lambda: "True label" in screen_text(pilot))
        shown = screen_text(pilot)
        assert "real      87.5 % █" in shown
        assert "fa\\x1bke  12.5 % █" in shown
        assert shown.index("fa\\x1bke  87.5 %") < shown.index("real      12.5 %")
