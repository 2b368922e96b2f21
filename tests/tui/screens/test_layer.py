"""The layer screen: its pictures say what was counted, every key does what it says, and nothing is guessed."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static, Tabs

from quail_audit.runs.names import EVENTS
from quail_audit.schema.events.audit import LayerMeasured, RunStarted
from quail_audit.schema.events.lines import Event, to_line
from quail_audit.schema.figures import RATIO_EDGES, LayerDetail, LayerStatistics
from quail_audit.schema.policy import Limits
from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.screens.layer import LayerScreen
from quail_audit.tui.widgets.histogram import Histogram
from quail_audit.tui.widgets.layer_table import LayerTable
from quail_audit.tui.widgets.transitions import Transitions, short_count
from quail_audit.tui.words import layers as layer_words
from tests.support.app_driver import screen_text, until
from tests.support.made_runs import detail, events, layers, write_run


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@asynccontextmanager
async def opened(
    folder: Path, *, size: tuple[int, int] = (120, 40), layer: str = "model.layers.1.mlp.up_proj"
) -> AsyncIterator[tuple[QuailApp, Pilot[None], LayerScreen]]:
    """The layer screen over the audit's, as Enter in the table leaves it; the table in model order."""
    app = QuailApp(folder)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: all(run.is_over for run in app.live_runs.values()) and bool(app.live_runs))
        audit = app.screen
        assert isinstance(audit, AuditScreen)
        table = audit.query_one(LayerTable)
        await until(pilot, lambda: layer in table.in_order)
        table.move_cursor(row=table.in_order.index(layer))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LayerScreen) and app.screen.is_mounted)
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, LayerScreen)
        yield app, pilot, screen


def with_detail(made: LayerDetail | None, name: str = "model.layers.1.mlp.up_proj") -> Iterator[Event]:
    for event in events(blocks=2, samples=2):
        if isinstance(event, LayerMeasured) and event.layer.name == name:
            event = event.model_copy(update={"detail": made})
        yield event


def counts(**by_place: int) -> tuple[int, ...]:
    return tuple(by_place.get(f"bin{place}", 0) for place in range(len(RATIO_EDGES) + 1))


# In words


def test_share_below_half_is_counted_up_to_the_edge() -> None:
    half = RATIO_EDGES.index(0.5)  # the bin of this number ends at one half
    made = LayerDetail(ratio_counts=counts(bin0=10, **{f"bin{half}": 20, f"bin{half + 1}": 70}), transitions=(1,))
    assert layer_words.below_half(made) == pytest.approx(0.3)
    assert layer_words.below_half_in_words(made).startswith("30.0 % of changed weights moved under half a bucket")
    nothing = LayerDetail(ratio_counts=counts(), transitions=(0,))
    assert layer_words.below_half(nothing) is None
    assert layer_words.below_half_in_words(nothing) == "No weight changed."


def test_kept_codes_are_the_diagonal() -> None:
    made = LayerDetail(ratio_counts=counts(), transitions=(3, 1, 2, 4))
    assert layer_words.levels_of(made) == 2
    assert layer_words.kept_codes(made) == pytest.approx(0.7)
    assert layer_words.kept_codes(LayerDetail(ratio_counts=counts(), transitions=(0,) * 4)) is None


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.99999, "over 99.9 %"), (0.00001, "under 0.1 %"), (0.5, "50.0 %")],
)
def test_a_share_is_all_or_nothing_only_where_it_is(share: float, shown: str) -> None:
    assert layer_words.percent(share) == shown


def test_bins_are_named_by_their_edges() -> None:
    assert layer_words.bin_in_words(0) == "below 1/1024"
    assert layer_words.bin_in_words(RATIO_EDGES.index(0.5)) == "3/8 to ½"
    assert layer_words.bin_in_words(len(RATIO_EDGES)) == "24 and above"


@pytest.mark.parametrize(("count", "shown"), [(7, "7"), (999, "999"), (1234, "1.2k"), (45_000, "45k"), (1e6, "1.0M")])
def test_a_count_fits_four_characters(count: int, shown: str) -> None:
    assert short_count(int(count)) == shown


def test_a_statistic_is_held_to_the_limit_of_its_layer() -> None:
    layer = next(layer for layer in layers(8, "nf4") if layer.state == "carried")
    for limits, overlap, survival in (
        (Limits(), "the same code in both; at risk from 0.999 on", "of the update is left; at risk under 0.5"),
        (
            Limits(overlap_at_risk=0.5, survival_at_risk=1.0),
            "the same code in both: at risk, from 0.5 on",
            "of the update is left: at risk, under 1",
        ),
    ):
        words = {reading.name: reading.words for reading in layer_words.readings(layer, limits)}
        assert (words["overlap"], words["survival"]) == (overlap, survival)


def test_every_statistic_has_words_that_fit_80_columns() -> None:
    for layer in layers(8, "nf4"):
        for reading in layer_words.readings(layer, Limits()):
            assert reading.words
            assert len(reading.words) <= 49
    broken = {field: None for field in LayerStatistics.model_fields if field not in ("name", "role", "weights")}
    layer = LayerStatistics.model_validate(
        broken
        | {"name": "a", "role": "a", "weights": 9, "at_risk": False, "nonfinite_original": 3}
        | {"nonfinite_unlearned": 0}
    )
    assert "3" in [reading.value for reading in layer_words.readings(layer, Limits())]
    assert layer_words.state_in_words(layer).startswith("not finite")


# On screen


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_says_the_main_story_at_every_size(tmp_path: Path, size: tuple[int, int]) -> None:
    async with opened(write_run(tmp_path / "run"), size=size) as (app, pilot, _):
        shown = screen_text(pilot)
        assert "model.layers.1.mlp.up_proj" in shown
        assert "erased" in shown
        assert "at risk" in shown
        assert (
            "% of changed weights moved under half a bucket" in shown.replace("\n", " ") or size[0] == 120
        )  # there it takes two lines
        assert "survival" in shown
        await pilot.press("2")
        await until(pilot, lambda: "of changed weights kept their code" in screen_text(pilot))
        codes = app.screen.query_one(Transitions)
        assert codes.max_scroll_y == codes.max_scroll_x == 0  # all 16 levels fit


@pytest.mark.asyncio
async def test_next_and_previous_follow_the_table(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run")) as (app, pilot, screen):
        for key, name in (
            ("n", "model.layers.1.mlp.down_proj"),
            ("right_square_bracket", "model.layers.2.self_attn.q_proj"),
            ("p", "model.layers.1.mlp.down_proj"),
            ("left_square_bracket", "model.layers.1.mlp.up_proj"),
            ("J", "model.layers.2.mlp.up_proj"),
            ("K", "model.layers.1.mlp.up_proj"),
            ("h", "model.layers.1.mlp.gate_proj"),
            ("l", "model.layers.1.mlp.up_proj"),
            ("H", "model.layers.1.mlp.gate_proj"),
            ("L", "model.layers.1.mlp.up_proj"),
        ):
            await pilot.press(key)
            assert screen.layer_name == name
            await pilot.pause()
            assert name in str(screen.query_one("#layer-title", Static).render())
        await pilot.press("n", "n", "escape")
        await until(pilot, lambda: isinstance(app.screen, AuditScreen))
        assert app.screen.query_one(LayerTable).current == "model.layers.2.self_attn.q_proj"


@pytest.mark.asyncio
async def test_the_ends_are_ends(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run"), layer="model.layers.0.self_attn.q_proj") as (app, pilot, screen):
        await pilot.press("p", "K", "h")
        assert screen.layer_name == "model.layers.0.self_attn.q_proj"
        assert any("first layer in the table" in line for line in app.log_lines)


@pytest.mark.asyncio
async def test_the_next_scheme_is_of_the_same_layer(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", events(schemes=("nf4", "fp4"), samples=2))
    async with opened(folder) as (_, pilot, screen):
        await pilot.press("x")
        assert (screen.scheme, screen.layer_name) == ("fp4", "model.layers.1.mlp.up_proj")
        await pilot.press("x")
        assert screen.scheme == "nf4"


@pytest.mark.asyncio
async def test_one_scheme_stays(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run")) as (app, pilot, screen):
        await pilot.press("x")
        assert screen.scheme == "nf4"
        assert any("one scheme" in line for line in app.log_lines)


@pytest.mark.asyncio
async def test_tab_goes_through_the_panels_also_where_one_is_hidden(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run"), size=(80, 24)) as (_, pilot, screen):
        seen = []
        for key in ("tab", "tab", "tab", "shift+tab", "shift+tab"):
            await pilot.press(key)
            await pilot.pause()
            assert screen.focused is not None
            assert screen.focused.region.height > 0
            seen.append(screen.focused.id)
        assert seen == ["histogram", "codes", "figures", "codes", "histogram"]
        await pilot.press("2")
        assert screen.query_one(Tabs).active == "tab-codes"
        await pilot.click("#tab-overview")
        await pilot.pause()
        assert screen.query_one(Histogram).region.height > 0


@pytest.mark.asyncio
async def test_cursors_say_their_counts(tmp_path: Path) -> None:
    ratios = counts(bin3=5, bin20=7_000, bin21=2_000)
    transitions = [0] * 256
    transitions[7 * 16 + 7], transitions[7 * 16 + 8], transitions[3 * 16 + 5] = 8_000, 41, 9
    made = LayerDetail(ratio_counts=ratios, transitions=tuple(transitions))
    async with opened(write_run(tmp_path / "run", with_detail(made))) as (_, pilot, screen):
        histogram, codes = screen.query_one(Histogram), screen.query_one(Transitions)
        assert histogram.border_subtitle == "9,005 changed weights"
        assert codes.cursor == (7, 8)  # most of those that moved
        assert "level 7 → 8: 41 weights" in str(codes.border_subtitle)
        await pilot.press("1", "right")
        assert "3/4 to 1 of a bucket: 7,000 weights" in str(histogram.border_subtitle)
        await pilot.press("right")
        assert "1 to 1.5 of a bucket: 2,000 weights" in str(histogram.border_subtitle)
        await pilot.press(*["left"] * 40)
        assert "below 1/1024" in str(histogram.border_subtitle)
        await pilot.press("2", "left", "k", "down", "l", "h")
        assert codes.cursor == (7, 7)
        assert "8,000 weights" in str(codes.border_subtitle)
        await pilot.press(*["up"] * 20, *["l"] * 20)
        assert codes.cursor == (0, 15)
        inside = (4 + 5 * codes._cell_columns, 2 + 3 * codes._cell_lines)  # after the labels, and under the headings
        await pilot.click(Transitions, offset=(inside[0] + 2, inside[1] + 1))  # the border and its padding
        assert codes.cursor == (3, 5)


@pytest.mark.asyncio
async def test_a_layer_without_detail_says_why(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run", with_detail(None))) as (_, pilot, _):
        assert "Nothing to draw" in screen_text(pilot)
        await pilot.press("1", "left", "2", "up")  # nothing to go through, and no crash
        assert "survival" in screen_text(pilot)


@pytest.mark.asyncio
async def test_a_run_that_is_gone_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    async with opened(folder) as (_, pilot, _):
        (folder / EVENTS).unlink()
        await pilot.press("n")
        await until(pilot, lambda: "cannot be read" in screen_text(pilot))


@pytest.mark.asyncio
async def test_a_scheme_with_other_levels_is_drawn(tmp_path: Path) -> None:
    made = LayerDetail(ratio_counts=counts(bin4=1), transitions=(1,) * 32**2)
    async with opened(write_run(tmp_path / "run", with_detail(made)), size=(80, 24)) as (_, pilot, screen):
        await pilot.press("2", *["down"] * 40, *["right"] * 40)
        assert screen.query_one(Transitions).cursor == (31, 31)


@pytest.mark.asyncio
async def test_a_layer_appears_when_it_is_measured(tmp_path: Path) -> None:
    made = list(events(schemes=("nf4", "fp4"), samples=2))
    measured = [place for place, event in enumerate(made) if isinstance(event, LayerMeasured)]
    folder = write_run(tmp_path / "run", iter(made[: measured[1]]))  # the first layer under nf4 only
    app = QuailApp()
    async with app.run_test() as pilot:
        from quail_audit.tui.live.run import LiveRun

        run = LiveRun(folder)
        await until(pilot, lambda: run.advance(0.01) or run.state.layers_done)
        name = run.layers("nf4")[0].name
        screen = LayerScreen(run, "fp4", name, [name])
        await app.push_screen(screen)
        await pilot.pause()
        assert "not measured under fp4" in screen_text(pilot)
        event = made[measured[1]]
        with (folder / EVENTS).open("a") as file:
            file.write(to_line(event) + "\n")
        later = LiveRun(folder)  # what a follower takes in when the line comes
        await until(pilot, lambda: later.advance(0.01) or later.layer("fp4", name) is not None)
        screen.run = later
        screen.show_changes()
        await until(pilot, lambda: "moved under half a bucket" in screen_text(pilot))


@pytest.mark.asyncio
async def test_hostile_names_are_shown_as_they_are(tmp_path: Path) -> None:
    name = "[red]model[/red].\x1b]0;owned\x07.layers.0.q_proj"
    made = list(events(blocks=1, samples=1))
    layer = next(event for event in made if isinstance(event, LayerMeasured)).layer
    evil = layer.model_copy(update={"name": name, "role": "[bold]q"})
    changed = [
        event.model_copy(update={"layer": evil, "detail": detail(layer)})
        if isinstance(event, LayerMeasured) and event.index == 1
        else event
        for event in made
    ]
    assert isinstance(changed[0], RunStarted)
    async with opened(write_run(tmp_path / "run", iter(changed)), layer=name) as (_, pilot, _screen):
        shown = screen_text(pilot)
        assert "\x1b" not in shown
        assert "[red]model[/red]" in shown


@pytest.mark.asyncio
async def test_help_explains_each_panel(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run")) as (app, pilot, screen):
        for panel in ("1", "2", "3"):
            await pilot.press(panel)
            assert screen.focused is not None
            lines = screen.focused.HOW_TO_READ  # type: ignore[attr-defined]
            await pilot.press("question_mark")
            await until(pilot, lambda: app.screen is not screen)
            await until(pilot, lambda first=lines[0][:40]: first in screen_text(pilot))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)


@pytest.mark.asyncio
async def test_samples_are_a_key_away(tmp_path: Path) -> None:
    async with opened(write_run(tmp_path / "run")) as (app, pilot, screen):
        await pilot.press("s")
        await until(pilot, lambda: type(app.screen).__name__ == "SamplesScreen")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
