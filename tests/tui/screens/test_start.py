"""The start screen: every key, what it says of good and bad choices, and the runs it lists."""

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, Select, Static

from quail_audit.runs.folder import new_run
from quail_audit.runs.names import EVENTS, RUNS_FOLDER
from quail_audit.runs.record import record
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.figures import CheckpointFacts
from quail_audit.schema.preflight import (
    CheckpointFound,
    DataFound,
    NotYetKnown,
    PairFound,
    Problem,
    SchemeChoice,
    SchemesFound,
)
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.app import QuailApp
from quail_audit.tui.form.choices import Choices, first_choices, readiness, usable
from quail_audit.tui.form.folder_suggester import complete
from quail_audit.tui.live.recent_runs import RecentRuns
from quail_audit.tui.screens import start
from quail_audit.tui.screens.found import FoundScreen
from quail_audit.tui.screens.start import StartScreen
from quail_audit.tui.settings import Settings, load_settings, save_settings
from quail_audit.tui.widgets import runs_panel
from quail_audit.tui.widgets.choice import Choice
from quail_audit.tui.widgets.runs_panel import RunsPanel
from quail_audit.tui.widgets.runs_table import RunsTable, mark, pair, schemes, when
from quail_audit.tui.words.findings import details, finding
from tests.support.app_driver import settled, until
from tests.support.made_runs import events, write_run
from tests.support.preflight_answers import ANSWERS

Test = Pilot[None]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to open the app in, and settings of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUAIL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(start, "CHECK_AFTER_S", 0.02)
    monkeypatch.setattr("quail_audit.tui.form.preflight.COMMAND", ())
    real = start.Preflight
    monkeypatch.setattr(
        start, "Preflight", lambda *arguments: real(*arguments, command=(sys.executable, "-c", ANSWERS))
    )
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AuditRequest]:
    """What was asked to be measured; nothing is."""
    requests: list[AuditRequest] = []
    monkeypatch.setattr(QuailApp, "start_audit", lambda self, request: requests.append(request))
    return requests


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were asked to be shown; none is."""
    folders: list[Path] = []
    monkeypatch.setattr(QuailApp, "open_run", lambda self, folder: folders.append(folder))
    return folders


@asynccontextmanager
async def opened_app(size: tuple[int, int] = (120, 40)) -> AsyncIterator[Test]:
    async with QuailApp().run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, StartScreen) and pilot.app.screen._has_begun)
        await until(pilot, lambda: len(pilot.app.screen.query("SchemeBox")) == 3)
        yield pilot


async def fill(pilot: Test, **values: str) -> None:
    """Type these and wait until everything that is chosen has been looked at."""
    for topic, value in values.items():
        found(pilot)[topic] = None  # until the form has seen what was typed
        pilot.app.screen.query_one(f"#{topic}", Input).value = value
    await until(pilot, lambda: all((topic in found(pilot)) == bool(usable(value)) for topic, value in values.items()))
    await until(pilot, lambda: not any(answer is None for answer in found(pilot).values()))


def found(pilot: Test) -> dict[str, Any]:
    screen = pilot.app.screen
    assert isinstance(screen, StartScreen)
    return screen._checks.found


def shown(pilot: Test, selector: str) -> str:
    return str(pilot.app.screen.query_one(selector, Static).render())


def below(pilot: Test, topic: str) -> str:
    choice = next(choice for choice in pilot.app.screen.query(Choice) if choice.topic == topic)
    return str(choice.query_one(".choice-finding", Static).render())


def focused(pilot: Test) -> str | None:
    return None if pilot.app.screen.focused is None else pilot.app.screen.focused.id


@pytest.mark.asyncio
async def test_an_empty_form_says_what_to_do() -> None:
    async with opened_app() as pilot:
        assert focused(pilot) == "original"
        assert "→ choose the original" in shown(pilot, "#readiness")
        assert pilot.app.screen.query_one("#start-button", Button).disabled
        await until(pilot, lambda: "quail demo" in shown(pilot, "#no-runs"))
        assert shown(pilot, "#command").strip() == "$ quail audit ORIGINAL UNLEARNED --policy none"


@pytest.mark.asyncio
async def test_choices_are_checked_and_the_audit_starts(started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="b c", retrain="r", data="d", policy="p.toml")
        assert below(pilot, "original").startswith("✓ LlamaForCausalLM · 1.23 M parameters · bfloat16 · 28 layers")
        assert "1 of 2 metrics" in below(pilot, "data")
        assert "known ≤ 10 %" in below(pilot, "policy")
        assert "✓ ready: 28 layers, 24 samples on 5 arms" in shown(pilot, "#readiness")
        line = "quail audit a 'b c' --retrain r --data d --policy p.toml"
        assert line in " ".join(shown(pilot, "#command").split())
        await pilot.press("ctrl+r")
        assert started == [
            AuditRequest(original="a", unlearned="b c", retrain="r", data="d", policy="p.toml", schemes=("nf4",))
        ]
        await until(pilot, lambda: load_settings()[0].original == "a")
        assert load_settings()[0].policy == "p.toml"


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["ctrl+r", "f5"])
async def test_nothing_starts_while_something_is_wrong(key: str, started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await pilot.press(key)
        assert focused(pilot) == "original"
        await fill(pilot, original="a", unlearned="wrong")
        assert below(pilot, "unlearned") == "✗ is [red]wrong[/red]. Give another"
        assert "✗ Unlearned cannot be used" in shown(pilot, "#readiness")
        await pilot.press("escape", key)
        assert focused(pilot) == "unlearned"
        assert started == []


@pytest.mark.asyncio
async def test_a_pair_that_does_not_fit_is_in_the_way(started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="other")
        assert "✗ they do not fit: is [red]wrong[/red]" in shown(pilot, "#readiness")
        await pilot.press("ctrl+r")
        assert started == []
        await fill(pilot, unlearned="b")
        assert "✓ ready: 28 layers, weights only" in shown(pilot, "#readiness")


@pytest.mark.asyncio
async def test_whether_a_pair_fits_is_found_after_a_start_that_did_not_wait_for_it(
    here: Path, started: list[AuditRequest]
) -> None:
    async with opened_app() as pilot:
        pilot.app.screen.query_one("#original", Input).value = "a"
        pilot.app.screen.query_one("#unlearned", Input).value = "slow"
        await until(pilot, lambda: "pair" in found(pilot))
        await pilot.press("ctrl+r")
        assert len(started) == 1
        (here / "go-on").touch()
        await pilot.press("f1")  # away from the form, as an audit's own screen is
        await until(pilot, lambda: not isinstance(pilot.app.screen, StartScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(found(pilot).get("pair"), PairFound))


@pytest.mark.asyncio
async def test_an_id_on_a_hub_may_be_started(started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="hub/a", unlearned="hub/b")
        assert below(pilot, "original").startswith("… it will be fetched")
        assert "pair" not in found(pilot)
        assert "… ready" in shown(pilot, "#readiness")
        await pilot.press("f5")
        assert [request.original for request in started] == ["hub/a"]


@pytest.mark.asyncio
async def test_a_process_that_dies_is_said_and_the_rest_goes_on() -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="die", unlearned="b")
        assert "ended twice (exit code 9)" in below(pilot, "original")
        assert below(pilot, "unlearned").startswith("✓")
        assert any("exit code 9" in line for line in pilot.app.log_lines)  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_only_the_last_of_fast_changes_is_shown() -> None:
    async with opened_app() as pilot:
        field = pilot.app.screen.query_one("#original", Input)
        for value in ("wrong", "wronger", "good"):
            field.value = value
        await fill(pilot)
        await until(pilot, lambda: below(pilot, "original").startswith("✓"))
        field.value = ""
        await until(pilot, lambda: below(pilot, "original") == "")


@pytest.mark.asyncio
async def test_typing_does_not_trigger_the_keys_of_the_screen() -> None:
    async with opened_app() as pilot:
        await pilot.press("q", "n", "t", "question_mark", "j")
        assert pilot.app.screen.query_one("#original", Input).value == "qnt?j"
        assert isinstance(pilot.app.screen, StartScreen)


@pytest.mark.asyncio
async def test_up_down_enter_and_tab_go_through_the_form(started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="b")
        await pilot.press("down")
        assert focused(pilot) == "unlearned"
        await pilot.press("up")
        assert focused(pilot) == "original"
        for topic in ("unlearned", "retrain", "data", "policy"):
            await pilot.press("enter")
            assert focused(pilot) == topic
        await pilot.press("enter")
        assert len(started) == 1


@pytest.mark.asyncio
async def test_schemes_are_checked_with_keys_and_shown_as_more_than_colour() -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="b")
        pilot.app.screen.query_one("#policy").focus()
        await pilot.press("tab")
        boxes = list(pilot.app.screen.query("SchemeBox"))
        assert pilot.app.screen.focused is boxes[0]
        assert [str(box.render())[:3] for box in boxes] == ["[✓]", "[ ]", "[ ]"]
        await pilot.press("right", "space", "right", "enter", "left")
        assert pilot.app.screen.focused is boxes[1]
        assert [str(box.render())[:3] for box in boxes] == ["[✓]", "[✓]", "[✓]"]
        assert "--scheme nf4 --scheme fp4 --scheme int8" in " ".join(shown(pilot, "#command").split())
        assert "28 layers under 3 schemes" in shown(pilot, "#readiness")
        for box in boxes:
            box.focus()
            await pilot.press("space")
        assert "✗ choose at least one scheme" in shown(pilot, "#readiness")
        await pilot.press("ctrl+r")
        assert pilot.app.screen.focused is boxes[0]


@pytest.mark.asyncio
async def test_devices_of_the_machine_are_offered() -> None:
    async with opened_app() as pilot:
        select = pilot.app.screen.query_one("#device", Select)
        await until(pilot, lambda: "auto (cuda:0)" in str(select.query_one("#label", Static).render()))
        select.focus()
        await pilot.press("enter", "down", "down", "enter")
        assert select.value == "cpu"
        assert "--device cpu" in shown(pilot, "#command")


@pytest.mark.asyncio
async def test_how_questions_are_asked_and_how_many_items_there_are_is_chosen(started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="b", data="d")
        pilot.app.screen.query_one("#prompt-format", Select).focus()
        await pilot.press("enter", "down", "down", "enter")
        pilot.app.screen.query_one("#population", Input).focus()
        await pilot.press(*"0x")
        await until(pilot, lambda: "items in all is a number from 1" in shown(pilot, "#readiness"))
        await pilot.press("tab", "ctrl+r")
        assert not started
        assert focused(pilot) == "population"
        await pilot.press("end", "backspace", *"96")
        options = "--population 96 --prompt-format chat"
        await until(pilot, lambda: options in " ".join(shown(pilot, "#command").split()))
        await until(pilot, lambda: "✓ ready" in shown(pilot, "#readiness"))
        await pilot.press("ctrl+r")
        assert [(request.population, request.prompt_format) for request in started] == [(96, "chat")]
        await until(pilot, lambda: load_settings()[0].original == "a")
        assert first_choices(load_settings()[0]).population == ""  # it belongs to this data alone


@pytest.mark.asyncio
async def test_data_of_the_other_task_is_said_before_the_run_whichever_is_chosen_last(
    started: list[AuditRequest],
) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="bert", unlearned="b", data="labels")
        assert "1 of 2 metrics" in below(pilot, "data")
        await fill(pilot, original="causal")
        await until(pilot, lambda: "this data is for a classifier" in below(pilot, "data"))
        assert "Data cannot be used" in shown(pilot, "#readiness")
        await pilot.press("ctrl+r")
        assert focused(pilot) == "data"
        assert not started
        await fill(pilot, original="bert")
        await until(pilot, lambda: "1 of 2 metrics" in below(pilot, "data"))


@pytest.mark.asyncio
async def test_right_accepts_a_completion(here: Path) -> None:
    (here / "models" / "llama").mkdir(parents=True)
    async with opened_app() as pilot:
        field = pilot.app.screen.query_one("#original", Input)
        await pilot.press("m", "o")
        await until(pilot, lambda: field._suggestion == "models")
        await pilot.press("right", "slash")
        await until(pilot, lambda: field._suggestion == "models/llama")
        await pilot.press("right")
        assert field.value == "models/llama"


def test_completion(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha", "alps", ".hidden", "with space"):
        (here / name).mkdir()
    (here / "policy.toml").touch()
    (here / "bad\x1b[31m").mkdir()
    monkeypatch.setenv("HOME", str(here))
    assert complete("al") == "alpha"
    assert complete("alp") == "alpha"
    assert complete("alps") is None
    assert complete("w") == "with space"
    assert complete(".h") == ".hidden"
    assert complete("pol") is None
    assert complete("pol", ".toml") == "policy.toml"
    assert complete("~/al") == "~/alpha"
    assert complete(f"{here}/") == f"{here}/alpha"
    assert complete("bad") is None
    for nothing in ("", "~", "no/such/", "a\0", "~nobody-here/x"):
        assert complete(nothing) is None


@pytest.mark.asyncio
async def test_ctrl_o_picks_a_folder(here: Path) -> None:
    from textual_fspicker import FileOpen, SelectDirectory

    (here / "models" / "[red]llama").mkdir(parents=True)
    async with opened_app() as pilot:
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(pilot.app.screen, SelectDirectory))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, StartScreen))
        assert focused(pilot) == "original"
        pilot.app.screen.query_one("#unlearned").focus()
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(pilot.app.screen, SelectDirectory))
        pilot.app.screen.dismiss(here / "models" / "[red]llama")
        await until(pilot, lambda: isinstance(pilot.app.screen, StartScreen))
        await until(pilot, lambda: pilot.app.screen.query_one("#unlearned", Input).value == "models/[red]llama")
        pilot.app.screen.query_one("#policy").focus()
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(pilot.app.screen, FileOpen))


@pytest.mark.asyncio
async def test_a_click_on_the_dots_picks_too() -> None:
    from textual_fspicker import SelectDirectory

    async with opened_app() as pilot:
        await pilot.click("Button.browse")
        await until(pilot, lambda: isinstance(pilot.app.screen, SelectDirectory))


@pytest.mark.asyncio
async def test_a_click_on_start_starts(started: list[AuditRequest]) -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="b")
        await pilot.click("#start-button")
        assert len(started) == 1


@pytest.mark.asyncio
async def test_f2_shows_everything_that_was_found() -> None:
    async with opened_app((80, 24)) as pilot:
        await fill(pilot, original="a", unlearned="wrong", data="d")
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, FoundScreen))
        await pilot.pause()
        text = pilot.app.export_screenshot().replace("&#160;", " ")
        for said in ("architecture", "is [red]wrong[/red]", "Give another", "skipped: no texts", "a [b]note[/b]"):
            assert said in text
        await pilot.press("j", "k", "escape")
        assert isinstance(pilot.app.screen, StartScreen)


@pytest.mark.asyncio
async def test_on_a_wide_screen_it_is_there_at_once() -> None:
    async with opened_app((200, 60)) as pilot:
        assert pilot.app.screen.query_one("#found").display
        await fill(pilot, original="a", unlearned="b")
        assert "LlamaForCausalLM" in pilot.app.export_screenshot()
        left, right = pilot.app.screen.query_one("#new-audit").region, pilot.app.screen.query_one("#runs-panel").region
        assert left.right <= right.x


@pytest.mark.asyncio
async def test_at_80_columns_form_start_and_runs_fit(here: Path) -> None:
    write_run(here / RUNS_FOLDER / "one", events(blocks=1, samples=1))
    async with opened_app((80, 24)) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one(RunsTable).display)
        await pilot.pause()
        screen = pilot.app.screen
        assert screen.query_one("#start").max_scroll_y == 0
        form = ("#original", "#policy", "#schemes", "#device", "#prompt-format", "#population", "#command")
        for selector in (*form, "#start-button", "#runs"):
            region = screen.query_one(selector).region
            assert screen.region.contains_region(region), selector
            assert region.height > 0
        assert screen.query_one("#runs").region.height >= 3


@pytest.mark.asyncio
async def test_ctrl_y_copies_the_command() -> None:
    async with opened_app() as pilot:
        await fill(pilot, original="a", unlearned="b c")
        await pilot.press("ctrl+y")
        assert pilot.app.clipboard == "quail audit a 'b c' --policy none"


@pytest.mark.asyncio
async def test_f1_is_help_in_a_field() -> None:
    from quail_audit.tui.screens.help import HelpScreen

    async with opened_app() as pilot:
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, HelpScreen)


@pytest.mark.asyncio
async def test_runs_are_listed_with_verdicts_and_opened(here: Path, opened: list[Path]) -> None:
    now_s = time.time()
    for name, outcome, age_s in (("old", "pass", 900), ("new", "fail", 60), ("cut", "fail", 300)):
        made = list(events(blocks=1, samples=2, outcome=outcome))
        folder = write_run(here / RUNS_FOLDER / name, iter(made if name != "cut" else made[:9]))
        os.utime(folder / EVENTS, (now_s - age_s, now_s - age_s))
    elsewhere = write_run(here.parent / "elsewhere", events(blocks=1, samples=1, schemes=("fp4",)))
    os.utime(elsewhere / EVENTS, (now_s - 9, now_s - 9))
    save_settings(Settings().with_run(elsewhere).with_run(here / RUNS_FOLDER / "old").with_run(here / "gone"))
    async with opened_app() as pilot:
        table = pilot.app.screen.query_one(RunsTable)
        await until(pilot, lambda: table.row_count == 4)
        rows = [[str(cell) for cell in table.get_row_at(row)] for row in range(4)]
        assert [row[3] for row in rows] == ["✗ FAIL", "✗ FAIL", "■ stopped", "✓ PASS"]
        assert rows[0][2] == "fp4"
        assert rows[0][1] == "models/llama-news-7b → models/llama-news-7b-unlearned"
        await pilot.press("escape")
        assert focused(pilot) == "runs"
        await pilot.press("enter", "j", "enter", "k", "G", "enter", "g", "down", "enter")
        assert [folder.name for folder in opened] == ["elsewhere", "new", "old", "new"]
        await pilot.press("n")
        assert focused(pilot) == "original"


@pytest.mark.asyncio
async def test_the_cursor_stays_on_its_run_when_others_come(
    here: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_panel, "LOOK_AGAIN_QUIET_S", 0.05)
    now_s = time.time()
    for name, age_s in (("first", 600), ("second", 300)):
        folder = write_run(here / RUNS_FOLDER / name, events(blocks=1, samples=1))
        os.utime(folder / EVENTS, (now_s - age_s, now_s - age_s))
    async with opened_app() as pilot:
        table = pilot.app.screen.query_one(RunsTable)
        await until(pilot, lambda: table.row_count == 2)
        await pilot.press("escape", "j")
        write_run(here / RUNS_FOLDER / "third", events(blocks=1, samples=1))
        await until(pilot, lambda: table.row_count == 3)
        await pilot.press("enter")
        assert opened[0].name == "first"


@pytest.mark.asyncio
async def test_a_run_that_goes_on_is_marked_and_its_end_is_seen(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_panel, "LOOK_AGAIN_S", 0.05)
    made = list(events(blocks=1, samples=2))
    request = made[0].request  # type: ignore[union-attr]
    async with opened_app() as pilot:
        table = pilot.app.screen.query_one(RunsTable)
        with new_run(here / RUNS_FOLDER / "live", request) as folder:
            written = record(iter(made), folder)
            next(written), next(written)
            pilot.app.screen.query_one(RunsPanel).look_at_once()
            await until(pilot, lambda: table.row_count == 1)
            assert str(table.get_row_at(0)[3]) == "● running"
            list(written)
        await until(pilot, lambda: str(table.get_row_at(0)[3]) == "✗ FAIL")


@pytest.mark.asyncio
async def test_markup_and_escape_codes_in_names_are_shown_as_they_are(here: Path) -> None:
    made = list(events(blocks=1, samples=1))
    request = made[0].request.model_copy(update={"original": "[red]m\x1b[31m", "unlearned": "b[/]"})  # type: ignore[union-attr]
    made[0] = made[0].model_copy(update={"request": request})
    write_run(here / RUNS_FOLDER / "[bold]run", iter(made))
    async with opened_app() as pilot:
        table = pilot.app.screen.query_one(RunsTable)
        await until(pilot, lambda: table.row_count == 1)
        assert str(table.get_row_at(0)[1]) == "[red]m\\x1b[31m → b[/]"
        await fill(pilot, original="[red]m[/]", unlearned="[@click=app.quit]x")
        assert "[red]m[/]" in shown(pilot, "#command")


@pytest.mark.asyncio
async def test_the_last_choices_are_filled_in(here: Path, started: list[AuditRequest]) -> None:
    (here / "models").mkdir()
    chosen = Settings().with_changes(
        original=str(here / "models"), unlearned="org/name", schemes=("fp4",), device="cuda:3", theme="quail-light"
    )
    save_settings(chosen)
    async with opened_app() as pilot:
        choices = pilot.app.screen.choices  # type: ignore[attr-defined]
        assert choices == Choices(original="models", unlearned="org/name", schemes=("fp4",), device="cuda:3")
        await until(pilot, lambda: "not here" in str(pilot.app.screen.query_one("#device #label", Static).render()))
        await pilot.press("ctrl+r")
        assert started[0].original == "models"
        await until(pilot, lambda: load_settings()[0].original == str(here / "models"))


@pytest.mark.asyncio
async def test_the_folders_own_policy_is_filled_in_before_a_remembered_one(
    here: Path, started: list[AuditRequest]
) -> None:
    (here / "quail.toml").write_text("[limits]\n")
    save_settings(Settings().with_changes(original="a", unlearned="b", policy=str(here.parent / "loose.toml")))
    async with opened_app() as pilot:
        await until(pilot, lambda: "known ≤ 10 %" in below(pilot, "policy"))
        assert "--policy quail.toml" in shown(pilot, "#command")
        await pilot.press("ctrl+r")
        # not kept: another folder's audits are not judged by it unasked
        await until(pilot, lambda: load_settings()[0].policy == "")
        for typed in ("", "none"):
            await fill(pilot, policy=typed)
            assert "--policy none" in shown(pilot, "#command")
            await pilot.press("ctrl+r")
        await fill(pilot, policy="other.toml")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: load_settings()[0].policy == "other.toml")
    assert [request.policy for request in started] == ["quail.toml", None, None, "other.toml"]


def test_the_process_that_measures_is_told_the_policy(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "quail.toml").write_text("[limits]\n")
    asked: list[list[str]] = []
    monkeypatch.setattr(QuailApp, "_start_command", lambda self, arguments: asked.append(arguments))
    monkeypatch.setattr(QuailApp, "_keep_settings", lambda self, settings: None)
    for policy in ("quail.toml", "none", ""):
        request = Choices(original="a", unlearned="b", policy=policy).request()
        assert request is not None
        QuailApp().measure(request)
    assert [arguments[arguments.index("--policy") + 1] for arguments in asked] == ["quail.toml", "none", "none"]


def test_the_policy_to_begin_with_is_the_one_that_the_command_would_read(here: Path) -> None:
    remembered = Settings().with_changes(policy=str(here / "limits.toml"))
    assert first_choices(remembered).policy == "limits.toml"
    (here / "pyproject.toml").write_text("[tool.quail.limits]\n")
    assert first_choices(remembered).policy == "pyproject.toml"
    (here / "pyproject.toml").write_text("[tool.quail.limits")  # the command stops at it, and the app says so
    assert first_choices(remembered).policy == "pyproject.toml"
    (here / "quail.toml").touch()
    assert first_choices(remembered).policy == "quail.toml"


@pytest.mark.asyncio
@pytest.mark.parametrize("demo", ["quail-demo", "quail-demo-classifier"])
async def test_where_a_demo_is_built_one_key_starts_it(demo: str, here: Path, started: list[AuditRequest]) -> None:
    for part in ("original", "unlearned", "retrain", "data"):
        (here / demo / part).mkdir(parents=True)
        (here / demo / part / "config.json").touch()
    async with opened_app() as pilot:
        await until(pilot, lambda: "Press Ctrl+R" in shown(pilot, "#no-runs"))
        await pilot.press("ctrl+r")
        assert started == [
            AuditRequest(
                original=f"{demo}/original",
                unlearned=f"{demo}/unlearned",
                retrain=f"{demo}/retrain",
                data=f"{demo}/data",
            )
        ]


@pytest.mark.asyncio
async def test_nothing_is_checked_behind_a_run_that_was_opened_at_once(here: Path) -> None:
    run = write_run(here / "run", events(blocks=1, samples=1))
    async with QuailApp(run).run_test(size=(120, 40)) as pilot:
        await pilot.pause(0.3)
        screen = pilot.app.screen_stack[1]
        assert isinstance(screen, StartScreen)
        assert screen._preflight.process_id is None
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.query("SchemeBox")) == 3)


@pytest.mark.asyncio
async def test_themes_and_sizes_change_without_loss(here: Path) -> None:
    write_run(here / RUNS_FOLDER / "one", events(blocks=1, samples=1))
    async with opened_app((80, 24)) as pilot:
        await fill(pilot, original="a", unlearned="wrong")
        await until(pilot, lambda: pilot.app.screen.query_one(RunsTable).row_count == 1)
        pilot.app.theme = "quail-light"
        for size in ((200, 60), (120, 40), (60, 16), (80, 24)):
            await pilot.resize_terminal(*size)
            await settled(pilot)
            assert below(pilot, "unlearned").startswith("✗")
            assert pilot.app.screen.query_one(RunsTable).row_count == 1


# Without a screen


def test_paths_as_a_command_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert usable("  ~/models ") == "/home/me/models"
    assert usable("-rf") == "./-rf"
    assert usable("org/name@main") == "org/name@main"


def test_text_that_is_no_unicode_is_no_request() -> None:
    assert Choices(original="a\udcff", unlearned="b").request() is None


def test_no_demo_without_both_sides(here: Path) -> None:
    (here / "quail-demo" / "original").mkdir(parents=True)
    assert first_choices(Settings()) == Choices()


def checkpoint(**changes: Any) -> CheckpointFound:
    facts = CheckpointFacts(
        source="a", architecture=None, format="safetensors", dtypes=("float32",), parameters=10, size_bytes=40
    )
    return CheckpointFound(facts=facts.model_copy(update=changes), layers=2)


def test_readiness_says_the_first_thing_first() -> None:
    both = Choices(original="a", unlearned="b")
    assert readiness(Choices(), {}).blocked_by == "original"
    assert readiness(Choices(original="a"), {}).blocked_by == "unlearned"
    assert readiness(both, {"data": Problem(message="no")}).blocked_by == "data"
    assert readiness(Choices(original="a", unlearned="b", schemes=()), {}).blocked_by == "schemes"
    assert readiness(both, {"pair": Problem(message="no", where="b")}).blocked_by == "unlearned"
    with_reference = Choices(original="a", unlearned="b", retrain="r")
    assert readiness(with_reference, {"pair": Problem(message="no", where="r/x")}).blocked_by == "retrain"
    assert readiness(both, {"original": None}).pending
    assert "same checkpoint" in readiness(Choices(original="a", unlearned=" a"), {}).line
    known = {"original": checkpoint(), "pair": PairFound(layers=2, weights=9)}
    assert readiness(both, known).line == "ready: 2 layers, weights only, as no data was given"
    calibrated = SchemeChoice(name="gptq-int4-g128", title="GPTQ", bits_per_weight=4.2, is_calibrated=True)
    with_gptq = Choices(original="a", unlearned="b", schemes=("nf4", "gptq-int4-g128"))
    ready = readiness(with_gptq, {"schemes": SchemesFound(schemes=(calibrated,))})
    assert (ready.blocked_by, ready.line.split(":")[0]) == ("schemes", "gptq-int4-g128 is calibrated on texts")
    lacking = calibrated.model_copy(update={"missing": "pip install it"})
    for choices in (with_gptq, replace(with_gptq, data="d")):
        ready = readiness(choices, {"schemes": SchemesFound(schemes=(lacking,))})
        assert (ready.blocked_by, ready.line) == ("schemes", "gptq-int4-g128 cannot run here yet: pip install it")
    assert not readiness(both, {"schemes": SchemesFound(schemes=(lacking,))}).blocked_by
    assert readiness(both, known | {"unlearned": NotYetKnown(message="later")}).pending


def test_findings_are_printable_and_marked() -> None:
    hostile = checkpoint(architecture="\x1b[31m[red]Evil", dtypes=("float16\n",))
    assert "\x1b" not in finding(hostile).line
    assert finding(hostile).mark == "✓"
    assert finding(None).mark == "…"
    assert finding(Problem(message="bad.", mend="Mend it.")) == ("bad", "bad. Mend it")
    assert ("where", "here") in details(Problem(message="bad", where="here"))
    data = DataFound(samples={"nll_forget": 3, "mine\x1b": 2}, skipped={"privleak": "no \x1b"})
    assert not any("\x1b" in text for row in details(data) for text in row)
    assert finding(data).line.startswith("2 of 3 metrics")


def test_the_finding_of_data_counts_each_kind_of_item_once() -> None:
    samples = {
        "nll_forget": 9, "membership_loss": 18, "privleak": 18, "verbmem_probability_forget": 7,
        "verbmem_exact_memorization_forget": 7, "verbmem_forget": 7, "verbmem_retain": 8,
    }  # fmt: skip
    found = finding(DataFound(samples=samples, skipped={"knowmem_forget": "no file"}))
    assert found.line == "7 of 8 metrics · KnowMem — · VerbMem 7/8 · Min-40% AUC 18 · NLL 9"


def test_when_a_run_was_written() -> None:
    now_s = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    assert when(now_s - 60, now_s) == "today 11:59"
    assert when(now_s - 86400, now_s) == "23 Nov 12:00"
    assert when(now_s - 400 * 86400, now_s).endswith(" Oct 2025")


def test_a_pair_in_few_columns() -> None:
    request = AuditRequest(
        original="models/llama-7b", unlearned="models/llama-7b-unlearned", schemes=("nf4", "fp4", "x")
    )
    assert pair(request, 80) == "models/llama-7b → models/llama-7b-unlearned"
    assert pair(request, 38) == "models/llama-7b → llama-7b-unlearned"
    assert pair(request, 30) == "llama-7b → llama-7b-unlearned"
    assert pair(request, 22) == "llama-7b → …-unlearned"
    assert pair(request, 10) == "llama-7b …"
    assert schemes(request, 11) == "nf4 fp4 x"
    assert schemes(request, 8) == "nf4 +2"


def test_a_run_whose_writer_died_is_stopped(here: Path) -> None:
    write_run(here / RUNS_FOLDER / "cut", iter(list(events(blocks=1, samples=1))[:5]))
    (here / RUNS_FOLDER / "junk").mkdir()
    (here / RUNS_FOLDER / "junk" / EVENTS).write_text("not json")
    (run,) = RecentRuns().look([here / "none"])
    assert run.standing == "stopped"


@pytest.mark.parametrize(
    ("exit_code", "standing", "said"),
    [(2, "refused", "! refused (2)"), (3, "refused", "! refused (3)"), (4, "failed", "! failed (4)"),
     (130, "stopped", "■ stopped")],
)  # fmt: skip
def test_a_run_that_ended_without_a_verdict_says_how(here: Path, exit_code: int, standing: str, said: str) -> None:
    run_events = [*list(events(blocks=1, samples=1))[:5]]
    end = RunFailed(finished="x", kind="bad input", message="no weights", exit_code=exit_code)
    write_run(here / RUNS_FOLDER / "ended", iter([*run_events, end]))
    (run,) = RecentRuns().look([])
    assert (run.standing, mark(run)) == (standing, said)
