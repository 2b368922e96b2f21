"""The audit screen: what it shows, and every key."""

from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from quail_audit.core.errors import EXIT_INCONCLUSIVE
from quail_audit.engine.audit.run import audit
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.follow import replay
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.widgets.forgetting import ForgettingPanel
from quail_audit.tui.widgets.format_table import FormatTable
from quail_audit.tui.widgets.heat_map import HeatMap
from quail_audit.tui.widgets.layer_table import ORDERS, LayerTable
from tests.support.app_driver import app_on, screen_text, settled, until
from tests.support.made_runs import FORMATS, ROLES, events, write_attribution, write_run

pytestmark = pytest.mark.asyncio
LAST = ("unlearned/nf4", "verbmem_forget", 11)  # arm, metric, sample


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", events(blocks=8, schemes=("nf4", "fp4")))


def audit_screen(pilot: Pilot[None]) -> AuditScreen:
    assert isinstance(pilot.app.screen, AuditScreen)
    return pilot.app.screen


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_one_glance_tells_the_verdict(run: Path, size: tuple[int, int]) -> None:
    async with app_on(run, size) as pilot:
        text = screen_text(pilot)
        assert text.count("✗ FAIL") == 2  # the badge and the line
        assert "verbmem_forget comes back at nf4" in text
        assert "llama-news-7b → " in text
        assert "overlap" in text
        assert "survival" in text
        assert "erased" in text
        assert audit_screen(pilot).max_scroll_x == 0


async def test_the_map_and_the_table_have_every_layer(run: Path) -> None:
    async with app_on(run) as pilot:
        screen = audit_screen(pilot)
        assert screen.query_one(LayerTable).row_count == 8 * len(ROLES)
        assert screen.query_one(HeatMap)._blocks == list(range(8))
        assert screen.query_one(HeatMap)._columns == list(ROLES)
        assert "layers.0.self_attn.q_proj" in screen_text(pilot)


async def test_the_map_and_the_table_are_linked_both_ways(run: Path) -> None:
    async with app_on(run) as pilot:
        screen = audit_screen(pilot)
        table, heat_map = screen.query_one(LayerTable), screen.query_one(HeatMap)
        await pilot.press("1", "down", "right", "right")
        await pilot.pause()
        assert heat_map.current is not None
        assert heat_map.current.name == "model.layers.1.self_attn.v_proj"
        assert table.current == heat_map.current.name
        await pilot.press("3", "down")
        await pilot.pause()
        assert heat_map.current.name == table.current == "model.layers.1.self_attn.o_proj"


@pytest.mark.parametrize(
    ("keys", "layer"),
    [
        ("jjl", "model.layers.2.self_attn.k_proj"),
        ("G", "model.layers.7.self_attn.q_proj"),
        ("Gg", "model.layers.0.self_attn.q_proj"),
        ("jkl", "model.layers.0.self_attn.k_proj"),
        ("llh", "model.layers.0.self_attn.k_proj"),
        ("h", "model.layers.0.self_attn.q_proj"),
    ],
)
async def test_vim_keys_move_in_the_map(run: Path, keys: str, layer: str) -> None:
    async with app_on(run) as pilot:
        await pilot.press("1", *keys)
        await pilot.pause()
        current = audit_screen(pilot).query_one(HeatMap).current
        assert current is not None
        assert current.name == layer


async def test_a_click_on_a_cell_puts_the_cursor_there(run: Path) -> None:
    async with app_on(run) as pilot:
        heat_map = audit_screen(pilot).query_one(HeatMap)
        cell, lines = heat_map._cell_columns, heat_map._cell_lines
        await pilot.click(HeatMap, offset=(2 + 5 + 3 * cell + 1, 1 + 1 + 2 * lines))  # border and padding, label
        await pilot.pause()
        assert heat_map.current is not None
        assert heat_map.current.name == "model.layers.2.self_attn.o_proj"
        assert audit_screen(pilot).query_one(LayerTable).current == heat_map.current.name


async def test_m_shows_every_figure_and_is_remembered(run: Path) -> None:
    async with app_on(run) as pilot:
        heat_map = audit_screen(pilot).query_one(HeatMap)
        seen = []
        for _ in range(5):
            seen.append(heat_map.mode)
            await pilot.press("m")
            await pilot.pause()
        assert seen == ["risk", "overlap", "survival", "update/bucket", "brings back"]
        await pilot.press("m")
        await pilot.pause()
        assert ".840" in screen_text(pilot)
        assert "0.90 safe" in screen_text(pilot)
        app = pilot.app
        assert isinstance(app, QuailApp)
        assert app.settings.heat_map == "overlap"


async def test_an_attribution_is_shown_once_there_is_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "attributed")
    async with app_on(run) as pilot:
        heat_map = audit_screen(pilot).query_one(HeatMap)
        await pilot.press("m", "m", "m", "m")
        await settled(pilot)
        assert heat_map.mode == "brings back"
        assert "none yet: quail attribute" in screen_text(pilot)
        write_attribution(run, {"model.layers.0.self_attn.q_proj": 0.22})
        await pilot.press("question_mark", "escape")  # another screen and back
        await settled(pilot)
        shown = screen_text(pilot)
        assert "22%" in shown
        assert "none yet" not in shown


async def test_x_and_a_click_on_the_header_change_the_scheme(run: Path) -> None:
    async with app_on(run) as pilot:
        screen = audit_screen(pilot)
        assert screen.scheme == "nf4"
        await pilot.press("x")
        await settled(pilot)
        assert screen.scheme == "fp4"
        assert "are back ── at fp4" in screen_text(pilot)
        assert screen.query_one(LayerTable).row_count == 8 * len(ROLES)
        await pilot.click("#header")
        await settled(pilot)
        assert screen.scheme == "nf4"


async def test_o_sorts_by_each_figure_in_turn(run: Path) -> None:
    async with app_on(run) as pilot:
        table = audit_screen(pilot).query_one(LayerTable)
        in_model_order = table.in_order
        layers = {layer.name: layer for layer in audit_screen(pilot).run.layers("nf4")}
        await pilot.press("o")
        await pilot.pause()
        states = [layers[name].state for name in table.in_order]
        assert states == sorted(states, key=["erased", "drowned", "carried", "untouched"].index)
        while table._order != "survival":
            await pilot.press("o")
            await pilot.pause()
        survivals = [layers[name].survival for name in table.in_order]
        assert survivals[:-1] == sorted(value for value in survivals if value is not None)
        assert survivals[-1] is None
        while table._order != ORDERS[0]:
            await pilot.press("O")
            await pilot.pause()
        assert table.in_order == in_model_order


async def test_a_click_on_a_heading_sorts(run: Path) -> None:
    async with app_on(run) as pilot:
        table = audit_screen(pilot).query_one(LayerTable)
        await pilot.click(LayerTable, offset=(table.size.width - 8, 1))
        await pilot.pause()
        assert table._order == "worst first"
        assert "state ▾" in screen_text(pilot)


async def test_a_slash_filters_by_name_and_state(run: Path) -> None:
    async with app_on(run) as pilot:
        screen = audit_screen(pilot)
        table = screen.query_one(LayerTable)
        await pilot.press("slash", *"down_proj")
        await pilot.pause()
        assert table.row_count == 8
        assert "8 of 56 match" in screen_text(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert table.has_focus
        assert table.row_count == 8
        await pilot.press("escape")
        await pilot.pause()
        assert table.row_count == 56
        await pilot.press("slash", *"erased")
        await pilot.pause()
        assert {layer.state for layer in screen.run.layers("nf4") if layer.name in table.in_order} == {"erased"}
        await pilot.press("escape")
        await pilot.pause()
        assert not screen.query_one("#filter", Input).display
        assert table.row_count == 56


async def test_a_filter_that_matches_nothing_leaves_an_empty_table_that_still_works(run: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("slash", *"no such [layer]", "enter", "down", "enter", "o")
        await pilot.pause()
        assert audit_screen(pilot).query_one(LayerTable).row_count == 0


async def test_on_a_narrow_screen_one_panel_is_shown_and_the_keys_change_it(run: Path) -> None:
    async with app_on(run, (80, 24)) as pilot:
        screen = audit_screen(pilot)
        assert screen.query_one(HeatMap).display
        assert "known in" not in screen_text(pilot)
        await pilot.press("2")
        await until(pilot, lambda: "known in" in screen_text(pilot))
        assert screen.query_one(ForgettingPanel).has_focus
        await pilot.click("#tab-map")
        await until(pilot, lambda: "known in" not in screen_text(pilot))


async def test_scores_that_were_drawn_before_there_was_room_for_them_are_drawn_again(run: Path) -> None:
    async with app_on(run, (80, 24)) as pilot:
        screen = audit_screen(pilot)
        screen._show_panel("forgetting")
        assert screen.query_one(ForgettingPanel).size.width == 0
        screen.show_changes()  # as the app does eight times a second, here before the panel has its size
        await until(pilot, lambda: "known in" in screen_text(pilot))


async def test_nothing_is_lost_when_the_terminal_changes_its_size(run: Path) -> None:
    async with app_on(run, (200, 60)) as pilot:
        table = audit_screen(pilot).query_one(LayerTable)
        await pilot.press("o", "down", "down", "down")
        await pilot.pause()
        before = table.current, table.in_order
        for size in ((80, 24), (120, 40), (200, 60)):
            await pilot.resize_terminal(*size)
            await settled(pilot)
            assert (table.current, table.in_order) == before


async def test_what_is_not_known_yet_is_a_dash_and_never_a_zero(tmp_path: Path) -> None:
    made = [event for event in events() if event.type in ("run_started", "pair_opened", "data_read", "planned")]
    async with app_on(write_run(tmp_path / "run", iter(made))) as pilot:
        lines = [line for line in screen_text(pilot).splitlines() if "│ VerbMem " in line]
        assert "—" in lines[0]
        assert "0.0" not in lines[0]


async def test_scores_so_far_are_marked_and_what_is_back_and_known_runs_along(tmp_path: Path) -> None:
    made = []
    for event in events(samples=24):
        if event.type == "metric_scored" and event.arm == "unlearned/nf4":
            continue
        made.append(event)
        if isinstance(event, SampleScored) and (event.arm, event.metric) == LAST[:2] and event.sample == LAST[2]:
            break
    async with app_on(write_run(tmp_path / "run", iter(made))) as pilot:
        text = screen_text(pilot)
        line = next(line for line in text.splitlines() if "│ VerbMem " in line)
        scores = [e for e in made if isinstance(e, SampleScored) and e.metric == "verbmem_forget" and e.sample < 12]

        def mean(arm: str) -> float:
            found = [event.score for event in scores if event.arm == arm]
            return sum(found) / len(found)

        floor = mean("retrain/full")
        percent = 100 * (mean("unlearned/nf4") - floor) / (mean("original/full") - floor)
        assert "~12 of 12" in line
        assert "12 of 12 texts" in text
        assert "back so far" in text
        assert f"~{mean('unlearned/nf4'):.1f}" in line
        assert f"~{percent:.0f} %" in line


async def test_a_run_that_failed_says_why_and_what_to_do_and_keeps_what_was_measured(tmp_path: Path) -> None:
    made = list(events(blocks=2))[:10]
    made.append(
        RunFailed(finished="x", kind="environment", message="out of memory", mend="Try --batch-size 1", exit_code=4)
    )
    async with app_on(write_run(tmp_path / "run", iter(made))) as pilot:
        text = screen_text(pilot)
        assert "! FAILED (4)" in text
        assert "exit code 4: out of memory" in text
        assert "Try --batch-size 1" in text
        assert audit_screen(pilot).query_one(LayerTable).row_count == 6


async def test_a_killed_run_is_told_from_one_that_goes_on(tmp_path: Path) -> None:
    async with app_on(write_run(tmp_path / "run", iter(list(events())[:20]))) as pilot:
        assert "ended without a verdict" in screen_text(pilot)


async def test_a_line_that_is_no_event_is_said_and_what_came_before_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", iter(list(events())[:20]))
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"type": "nonsense"}\n')
    async with app_on(folder) as pilot:
        text = " ".join(screen_text(pilot).split())  # a long path moves the line's breaks
        assert "not an event" in text
        assert "line 21" in text
        assert audit_screen(pilot).query_one(LayerTable).row_count == 16


async def test_a_run_without_data_says_what_data_would_show(tmp_path: Path) -> None:
    made = []
    for event in events():
        if event.type == "run_started":
            event = event.model_copy(update={"request": event.request.model_copy(update={"data": None})})
        if event.type in ("run_started", "pair_opened", "layer_measured", "weights_measured"):
            made.append(event)
    async with app_on(write_run(tmp_path / "run", iter(made))) as pilot:
        assert "Only the weights are measured" in screen_text(pilot)


async def test_hostile_text_reaches_the_screen_as_text(tmp_path: Path) -> None:
    """Names and answers with escape codes and markup: shown, not obeyed."""
    hostile = "\x1b[31mred\x1b[0m [bold]x[/bold] \u202e\x07"
    made = []
    for event in events(blocks=1, samples=1):
        if event.type == "layer_measured" and event.layer.role == "q_proj":
            event = event.model_copy(update={"layer": event.layer.model_copy(update={"name": hostile})})
        if isinstance(event, SampleScored):
            event = event.model_copy(update={"prompt": hostile, "answer": hostile})
        if event.type in ("verdict_reached", "run_finished"):
            continue
        made.append(event)
    folder = write_run(tmp_path / "run", iter(made))
    app = QuailApp(folder)
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: all(live.is_over for live in app.live_runs.values()))
        await settled(pilot)
        text = screen_text(pilot)
        assert "[bold]x[/bold]" in text
        assert "\\x1b[31mred" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


async def test_samples_and_remediation_need_something_measured(tmp_path: Path) -> None:
    async with app_on(write_run(tmp_path / "run", iter(list(events())[:3]))) as pilot:
        for key in "sr":
            await pilot.press(key)
            await pilot.pause()
            assert isinstance(pilot.app.screen, AuditScreen)
        app = pilot.app
        assert isinstance(app, QuailApp)
        assert "No sample has been answered yet" in app.log_lines[-2]
        assert "No layer has been measured yet" in app.log_lines[-1]


async def test_experts_of_one_role_share_a_cell_and_the_worst_shows(tmp_path: Path) -> None:
    made = []
    names = ["experts.0.w1", "experts.1.w1", "mlp.c_proj", "attn.c_proj"]
    for event in events(blocks=1):
        if event.type == "layer_measured" and names:
            state = "erased" if names[0] == "experts.1.w1" else "carried"
            layer = event.layer.model_copy(update={"name": f"model.layers.0.{names.pop(0)}", "state": state})
            made.append(event.model_copy(update={"layer": layer}))
        elif event.type != "layer_measured":
            made.append(event)
    async with app_on(write_run(tmp_path / "run", iter(made))) as pilot:
        heat_map = audit_screen(pilot).query_one(HeatMap)
        assert heat_map._columns == ["experts.w1", "mlp.c_proj", "attn.c_proj"]
        assert heat_map.current is not None
        assert heat_map.current.name == "model.layers.0.experts.1.w1"
        assert "m.c " in screen_text(pilot)
        assert "a.c " in screen_text(pilot)


async def test_every_move_in_the_table_reaches_the_map_even_after_it_was_told_where_it_is(run: Path) -> None:
    async with app_on(run) as pilot:
        screen = audit_screen(pilot)
        table, heat_map = screen.query_one(LayerTable), screen.query_one(HeatMap)
        for keys in (("3", "down"), ("o",), ("down",), ("O",), ("up",), ("down",)):
            table.point_at(str(table.current))
            await pilot.press(*keys)
            await pilot.pause()
            assert heat_map.current is not None
            assert heat_map.current.name == table.current


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_f_shows_every_format_with_its_verdict_and_what_decides(tmp_path: Path, size: tuple[int, int]) -> None:
    run = write_run(tmp_path / "many", events(blocks=2, schemes=FORMATS, samples=4, outcome="mixed"))
    async with app_on(run, size) as pilot:
        await pilot.press("f")
        await settled(pilot)
        lines = screen_text(pilot).splitlines()
        rows = {scheme: next(line for line in lines if f"│ {scheme} " in line) for scheme in FORMATS}
        assert "✗ FAIL" in rows["nf4"]
        assert "4 of 4" in rows["nf4"]
        assert ("97 % [91, 103]" if size[0] > 80 else " 97 ") in rows["nf4"]
        assert "! NOT MEASURED" in rows["fp4"]
        assert all("✓ PASS" in row and "0 of 4" in row for scheme, row in rows.items() if scheme not in FORMATS[:2])
        assert audit_screen(pilot).max_scroll_x == 0
        assert any("12 of 14 hold" in line for line in lines)


async def test_the_cursor_in_the_matrix_chooses_the_scheme_and_enter_goes_to_its_map(tmp_path: Path) -> None:
    run = write_run(tmp_path / "many", events(blocks=2, schemes=FORMATS, samples=4, outcome="mixed"))
    async with app_on(run) as pilot:
        screen = audit_screen(pilot)
        await pilot.press("f")
        await settled(pilot)
        await pilot.press("down")
        await settled(pilot)
        assert screen.scheme == FORMATS[1]
        assert "the backend is not installed. pip install it" in " ".join(screen_text(pilot).split())
        await pilot.press("x")
        await settled(pilot)
        assert screen.query_one(FormatTable).cursor_row == 2
        assert screen.scheme == FORMATS[2]
        await pilot.press("enter")
        await settled(pilot)
        assert isinstance(pilot.app.focused, HeatMap)
        assert not screen.query_one(FormatTable).display
        assert f"✓ 0 of 4 texts and 0 of 4 answers are back ── at {FORMATS[2]}" in screen_text(pilot)
        await pilot.press("f", "f")
        await settled(pilot)
        assert not screen.query_one(FormatTable).display


async def test_one_scheme_has_no_matrix(tmp_path: Path) -> None:
    async with app_on(write_run(tmp_path / "one", events(blocks=2, samples=4))) as pilot:
        await pilot.press("f")
        await settled(pilot)
        assert not audit_screen(pilot).query_one(FormatTable).display
        assert "Formats" not in screen_text(pilot)


async def test_ctrl_g_goes_on_with_an_audit_that_was_stopped(world: Path, tmp_path: Path) -> None:
    asked = AuditRequest(original=str(world / "original"), unlearned=str(world / "blank"), device="cpu")
    folder = tmp_path / "run"
    with new_run(folder, asked), closing(record(audit(asked, "run"), folder)) as events:
        stopped = list(islice(events, 9))
    async with app_on(folder) as pilot:
        app = pilot.app
        assert isinstance(app, QuailApp)
        assert "press Ctrl+G to resume" in screen_text(pilot)
        await pilot.press("ctrl+g")
        run = app.live_runs[folder]
        await until(pilot, lambda: run.is_over and not run.is_running_here)
        await settled(pilot)
        assert isinstance(app.screen, AuditScreen)
        assert app.screen.run is run
        assert run.state.verdict is not None, app.log_lines
        assert [type(screen) for screen in app.screen_stack].count(AuditScreen) == 1
        await pilot.press("ctrl+g")
        assert "This audit has finished" in app.log_lines[-1]
    assert read_report(folder).exit_code == EXIT_INCONCLUSIVE  # the weights alone never pass
    assert [event.type for event in replay(folder)][:9] == [event.type for event in stopped]
