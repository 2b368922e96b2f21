"""Compare, driven by keys: what is picked, what is shown of two runs, and what only one of them has."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from quail_audit.schema.events.audit import VerdictReached
from quail_audit.schema.policy import Limits, OtherLimits, Policy
from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.screens.compare import CompareScreen
from quail_audit.tui.screens.pick_run import PickRunScreen, candidates
from quail_audit.tui.widgets.change_table import ChangeTable
from quail_audit.tui.widgets.score_changes import ScoreChanges, signed_number
from tests.support.app_driver import settled, until
from tests.support.made_runs import events as audit_events
from tests.support.made_runs import judged_by, write_run
from tests.support.made_trainings import repaired

POLICY = Policy(limits=Limits(where=(OtherLimits(metrics=("verbmem_forget",), max_known_percent=12.0),)))


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuailApp:
    """On a run that failed; beside it its repaired one, and one of another model, which was written last."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / ".quail" / "runs"
    made = {
        "before": judged_by(POLICY, audit_events(blocks=4, schemes=("nf4", "fp4"), samples=60)),
        "repaired": judged_by(
            POLICY, repaired(audit_events(blocks=4, schemes=("nf4", "fp4"), samples=60, outcome="pass"))
        ),
        "smaller": audit_events(blocks=2, schemes=("nf4",), retrain=False),
    }
    for age, (name, events) in enumerate(reversed(made.items())):
        folder = write_run(runs / name, events)
        written_s = time.time() - 60 * (age + 1)
        os.utime(folder / "events.jsonl", (written_s, written_s))
    return QuailApp(runs / "before")


def said(screen: Any, name: str) -> str:
    return str(screen.query_one(name, Static).content)


async def compare_with(pilot: Pilot[Any], place: int) -> CompareScreen:
    """Press c and take the run at a place of the list."""
    app = pilot.app
    await until(pilot, lambda: isinstance(app.screen, AuditScreen) and app.screen.run.is_over)
    await pilot.press("c")
    await until(pilot, lambda: isinstance(app.screen, PickRunScreen) and bool(app.screen._found))
    await pilot.pause()
    await pilot.press(*["down"] * place, "enter")
    await until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.after is not None)
    screen = app.screen
    assert isinstance(screen, CompareScreen)
    await until(pilot, lambda: screen.after is not None and screen.after.is_over and screen.before.is_over)
    await until(pilot, lambda: "before" in said(screen, "#score-changes"))
    await settled(pilot)
    return screen


@pytest.mark.asyncio
async def test_runs_of_the_same_layers_are_offered_first_and_the_older_is_before(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await compare_with(pilot, 0)
        assert screen.after is not None
        assert (screen.before.folder.name, screen.after.folder.name) == ("before", "repaired")
        assert "FAIL" in said(screen, "#before")
        assert "PASS" in said(screen, "#after")


@pytest.mark.asyncio
async def test_scores_say_better_worse_or_the_same_in_words(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await compare_with(pilot, 0)
        lines = said(screen, "#score-changes").splitlines()
        verbmem = next(number for number, line in enumerate(lines) if line.startswith("VerbMem, forget"))
        assert " back " in lines[verbmem]
        assert "60 of 60 → " in lines[verbmem]
        assert " 0 of 60 " in lines[verbmem]
        assert "▲ better  limit 10 %" in lines[verbmem]
        assert " known " in lines[verbmem + 1]
        assert "97 % [91, 103] → " in lines[verbmem + 1]
        assert "▲ better  limit 12 %" in lines[verbmem + 1]
        assert "unlearned/full" in lines[verbmem + 2]
        assert "= same" in lines[verbmem + 2]
        assert "unlearned/nf4" in lines[verbmem + 3]
        assert "▲ better" in lines[verbmem + 3]
        assert any("known" in line and "▲ better  limit 10 %" in line for line in lines)  # KnowMem's
        assert not any("original/full" in line for line in lines)
        await pilot.press("v")
        await pilot.pause()
        assert "original/full" in said(screen, "#score-changes")


@pytest.mark.asyncio
async def test_layers_show_both_states_and_can_be_sorted_and_filtered(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await compare_with(pilot, 0)
        table = screen.query_one(ChangeTable)
        assert table.row_count == 28
        assert "erased → carried" in str(table.border_title)
        assert "drowned → carried" in str(table.border_title)
        first = [str(cell) for cell in table.get_row_at(0)]
        assert first[-1] == "▲ erased → carried"
        assert "→ 0.8100" in first[1]
        largest_first = table.in_order
        await pilot.press("o", "o")
        assert "model order" in str(table.border_subtitle)
        assert table.in_order[0] == "model.layers.0.self_attn.q_proj"
        await pilot.press("O", "O")
        assert table.in_order == largest_first
        await pilot.press("slash", *"down_proj", "enter")
        assert table.row_count == 4
        assert table.has_focus
        await pilot.press("escape")
        assert table.row_count == 28
        await pilot.press("slash", *"drowned", "enter")
        assert 0 < table.row_count < 28
        await pilot.press("j", "j", "k", "G", "g")
        assert screen.query_one("#filter", Input).value == "drowned"


@pytest.mark.asyncio
async def test_swapping_turns_better_into_worse(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await compare_with(pilot, 0)
        await pilot.press("w")
        await pilot.pause()
        assert screen.before.folder.name == "repaired"
        assert "▼ worse" in said(screen, "#score-changes")
        assert str(screen.query_one(ChangeTable).get_row_at(0)[-1]) == "▼ carried → erased"


@pytest.mark.asyncio
async def test_schemes_and_layers_of_one_run_only_are_told(app: QuailApp) -> None:
    async with app.run_test(size=(200, 60)) as pilot:
        screen = await compare_with(pilot, 1)
        shown = said(screen, "#caveats")
        assert "only before: fp4" in shown
        assert "different references" in shown
        assert "14 layers only before, 0 only after" in shown
        await pilot.press("x")  # they have one scheme in common
        assert screen.scheme == "nf4"


@pytest.mark.asyncio
async def test_the_next_scheme_is_a_key_away(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await compare_with(pilot, 0)
        await pilot.press("x")
        await pilot.pause()
        assert screen.scheme == "fp4"
        assert "unlearned/fp4" in said(screen, "#score-changes")
        assert "at fp4" in said(screen, "#header")


@pytest.mark.asyncio
async def test_another_run_is_picked_and_a_pick_can_be_given_up(app: QuailApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, AuditScreen) and app.screen.run.is_over)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, PickRunScreen) and bool(app.screen._found))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, AuditScreen))
        screen = await compare_with(pilot, 0)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, PickRunScreen) and bool(app.screen._found))
        await pilot.press("j", "k", "j", "enter")
        await until(pilot, lambda: app.screen is screen)
        assert screen.after is not None
        assert screen.after.folder.name == "smaller"
        await pilot.press("1")
        assert screen.query_one(ScoreChanges).has_focus
        await pilot.press("2")
        assert screen.query_one(ChangeTable).has_focus
        await pilot.press("escape")
        assert isinstance(app.screen, AuditScreen)


@pytest.mark.asyncio
async def test_without_another_run_the_list_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = QuailApp(write_run(tmp_path / "only"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, AuditScreen) and app.screen.run.is_over)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, PickRunScreen))
        runs = app.screen.query_one("#runs", OptionList)
        await until(pilot, lambda: runs.option_count == 1)
        assert "no other run" in str(runs.get_option_at_index(0).prompt)


@pytest.mark.asyncio
async def test_a_run_that_is_still_measured_shows_how_far_it_is(app: QuailApp, tmp_path: Path) -> None:
    made = [event for event in audit_events(blocks=4, schemes=("nf4", "fp4")) if not isinstance(event, VerdictReached)]
    cut = write_run(tmp_path / "cut", iter(made[:150]))
    async with app.run_test(size=(120, 40)) as pilot:
        before, after = app.live_run(tmp_path / ".quail" / "runs" / "before"), app.live_run(cut)
        await until(pilot, lambda: before.is_over and after.is_over)
        await app.push_screen(CompareScreen(before, after))
        await until(pilot, lambda: "STOPPED" in said(app.screen, "#after"))
        assert "without a verdict" in said(app.screen, "#after")
        assert "—" in said(app.screen, "#score-changes")  # what is not known yet is a dash


def test_candidates_leave_out_the_run_itself_and_add_recent_ones(app: QuailApp, tmp_path: Path) -> None:
    elsewhere = write_run(tmp_path / "elsewhere", audit_events(blocks=4))
    own = tmp_path / ".quail" / "runs" / "before"
    found = candidates(own, (str(elsewhere), str(own), str(tmp_path / "gone")))
    assert [candidate.summary.folder.name for candidate in found] == ["elsewhere", "repaired", "smaller"]
    assert [candidate.is_alike for candidate in found] == [True, True, False]


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(1.26, 1, "+1.3"), (-74.7, 1, "−74.7"), (-0.001, 2, "0.00"), (0.0, 0, "0"), (-0.4, 0, "0")],
)
def test_differences_have_their_sign_but_for_what_rounds_to_nothing(value: float, digits: int, shown: str) -> None:
    assert signed_number(value, digits) == shown
