"""What holds on every screen: help, palette, themes, log, export, leaving; and that the app imports nothing heavy."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from textual.command import CommandList, CommandPalette
from textual.widgets import Input, RadioButton

from quail_audit.reports.formats import FORMATS
from quail_audit.reports.text.audit import show
from quail_audit.runs.folder import read_report
from quail_audit.schema.report import Report
from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.screens.confirm import ConfirmScreen
from quail_audit.tui.screens.export import KINDS, ExportScreen
from quail_audit.tui.screens.help import TERMS, HelpScreen
from quail_audit.tui.screens.log import LogScreen
from quail_audit.tui.settings import load_settings
from quail_audit.tui.theme.files import SHIPPED_NAMES
from tests.support.app_driver import app_on, screen_text, settled, until
from tests.support.made_runs import events, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", events())


@pytest.mark.asyncio
async def test_help_explains_the_panel_in_hand_every_key_and_every_term(run: Path) -> None:
    async with app_on(run, (120, 200)) as pilot:
        for key, title in (("1", "Heat map"), ("2", "Forgetting panel"), ("3", "Layer table")):
            await pilot.press(key)
            focused = pilot.app.focused
            await pilot.press("question_mark")
            await settled(pilot)
            assert isinstance(pilot.app.screen, HelpScreen)
            text = " ".join(screen_text(pilot).replace("│", " ").split())
            assert title in text
            how_to_read = focused.HOW_TO_READ  # type: ignore[union-attr]
            assert len(how_to_read) == 3
            for line in how_to_read:
                assert line in text
            for term in TERMS:
                assert term in text
            for what in (
                "Read what every arm answered",
                "See what would repair this checkpoint",
                "Stop the audit",
                "Quit",
            ):
                assert what in text
            await pilot.press("escape")
            assert isinstance(pilot.app.screen, AuditScreen)


@pytest.mark.asyncio
async def test_help_scrolls_at_80_by_24_and_does_not_stack(run: Path) -> None:
    async with app_on(run, (80, 24)) as pilot:
        await pilot.press("question_mark", "question_mark")
        await settled(pilot)
        assert isinstance(pilot.app.screen, AuditScreen)
        await pilot.press("question_mark", "j", "j")
        await settled(pilot)
        assert pilot.app.screen.query_one("#help").scroll_y == 2
        assert pilot.app.screen.query_one("#help").max_scroll_x == 0


@pytest.mark.asyncio
async def test_every_key_is_in_the_palette_too(run: Path) -> None:
    async with app_on(run) as pilot:
        titles = {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert {"Samples", "Remediate", "Compare", "Export", "Stop", "Help", "Log", "Quit", "Map", "Scheme"} <= titles
        await pilot.press("ctrl+p")
        await pilot.pause()
        assert isinstance(pilot.app.screen, CommandPalette)
        await pilot.press(*"log")
        listed = pilot.app.screen.query_one(CommandList)
        await until(pilot, lambda: listed.highlighted == 0 and "Log" in str(listed.get_option_at_index(0).prompt))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, LogScreen))


@pytest.mark.asyncio
@pytest.mark.parametrize("theme", SHIPPED_NAMES)
async def test_every_theme_draws_every_panel_and_is_remembered(run: Path, theme: str) -> None:
    async with app_on(run) as pilot:
        assert set(pilot.app.available_themes) == set(SHIPPED_NAMES)
        pilot.app.theme = theme
        await settled(pilot)
        for _ in range(4):
            await pilot.press("m")
        await settled(pilot)
        assert "✗ FAIL" in screen_text(pilot)
    assert load_settings()[0].theme == theme


@pytest.mark.asyncio
async def test_a_broken_theme_of_the_users_is_said_and_the_others_are_there(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "themes"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('name = "mine"\n')
    (folder / "broken.toml").write_text('name = "broken"\n[colours]\n')
    async with app_on(run) as pilot:
        assert "mine" in pilot.app.available_themes
        assert "broken" not in pilot.app.available_themes
        app = pilot.app
        assert isinstance(app, QuailApp)
        assert "broken.toml" in app.log_lines[0]


@pytest.mark.asyncio
async def test_t_opens_the_theme_picker(run: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("t")
        await until(pilot, lambda: "quail-light" in screen_text(pilot))


@pytest.mark.asyncio
async def test_the_log_has_what_the_run_noted(run: Path) -> None:
    made = list(events())
    from quail_audit.schema.events.common import Noted

    made.insert(5, Noted(message="a [bold]note[/] \x1b[31m"))
    async with app_on(write_run(run.parent / "noted", iter(made))) as pilot:
        await pilot.press("ctrl+l")
        await settled(pilot)
        assert isinstance(pilot.app.screen, LogScreen)
        text = screen_text(pilot)
        assert "note: a [bold]note[/] \\x1b[31m" in text
        await pilot.press("j", "k", "escape")
        assert isinstance(pilot.app.screen, AuditScreen)


@pytest.mark.asyncio
async def test_the_report_is_exported_as_the_command_prints_it(run: Path, tmp_path: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("e")
        await settled(pilot)
        entry = pilot.app.screen.query_one("#path", Input)
        assert entry.value == "quail-20260101-120000-ab12.txt"
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AuditScreen))
    console = Console(file=(tmp_path / "expected").open("w"), width=120, highlight=False)
    show(read_report(run), console)
    console.file.close()
    written = (tmp_path / "work" / "quail-20260101-120000-ab12.txt").read_text()
    assert written == (tmp_path / "expected").read_text()


@pytest.mark.asyncio
async def test_json_and_a_picture_are_exported_and_nothing_is_replaced(run: Path, tmp_path: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("e")
        await settled(pilot)
        await pilot.press("down", "space")
        await settled(pilot)
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AuditScreen))
        written = tmp_path / "work" / "quail-20260101-120000-ab12.json"
        assert Report.model_validate_json(written.read_text()) == read_report(run)
        await pilot.press("e")
        await settled(pilot)
        await pilot.press("up", "space", "tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AuditScreen))
        picture = (tmp_path / "work" / "quail-20260101-120000-ab12.svg").read_text()
        assert "<svg" in picture
        assert "FAIL" in picture
        assert "Export" not in picture.replace("e Export", "").replace("Export</text>", "", 1)
        before = written.read_bytes()
        await pilot.press("e")
        await settled(pilot)
        await pilot.press("down", "space", "tab", "enter")
        await until(pilot, lambda: "already exists" in screen_text(pilot))
        assert isinstance(pilot.app.screen, ExportScreen)
        assert written.read_bytes() == before
        await pilot.press("escape")
        await settled(pilot)
        assert isinstance(pilot.app.screen, AuditScreen)


@pytest.mark.asyncio
async def test_a_path_that_cannot_be_written_is_said(run: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("e")
        await settled(pilot)
        pilot.app.screen.query_one("#path", Input).value = "/no/such/folder/report.txt"
        await pilot.press("tab", "enter")
        await settled(pilot)
        assert "cannot write /no/such/folder/report.txt" in screen_text(pilot)


@pytest.mark.asyncio
async def test_q_leaves_at_once_where_nothing_runs(run: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("q")
        await pilot.pause()
        assert not pilot.app.is_running or pilot.app._exit


@pytest.mark.asyncio
async def test_settings_that_cannot_be_read_are_said_and_do_no_harm(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings.json").write_text("{")
    async with app_on(run) as pilot:
        app = pilot.app
        assert isinstance(app, QuailApp)
        assert "settings" in app.log_lines[0]
        assert "✗ FAIL" in screen_text(pilot)


@pytest.mark.asyncio
async def test_recent_runs_are_remembered(run: Path, tmp_path: Path) -> None:
    async with app_on(run):
        pass
    kept = json.loads((tmp_path / "config" / "settings.json").read_text())
    assert kept["recent_runs"] == [str(run)]


@pytest.mark.asyncio
async def test_the_question_before_something_final_is_answered_by_keys_and_mouse(run: Path) -> None:
    async with app_on(run) as pilot:
        answers: list[bool | None] = []
        for act in (("y",), ("n",), ("escape",), ("enter",), ("left", "enter")):
            pilot.app.push_screen(ConfirmScreen("Really?", "Stop"), answers.append)
            await settled(pilot)
            await pilot.press(*act)
            await settled(pilot)
        pilot.app.push_screen(ConfirmScreen("Really?", "Stop"), answers.append)
        await settled(pilot)
        await pilot.click("#yes")
        await settled(pilot)
        assert answers == [True, False, False, False, True, True]


@pytest.mark.asyncio
async def test_other_formats_are_exported_as_the_command_writes_them(run: Path, tmp_path: Path) -> None:
    work, report = tmp_path / "work", read_report(run)
    assert set(KINDS) == {*FORMATS, "text", "json", "jsonl", "svg"}, "those of quail report, and the picture"
    async with app_on(run) as pilot:
        for kind in ("html", "csv-samples"):
            await pilot.press("e")
            await settled(pilot)
            screen = pilot.app.screen
            screen.query_one(f"#{kind}", RadioButton).value = True
            await settled(pilot)
            name = screen.query_one("#path", Input).value
            await pilot.press("tab", "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, AuditScreen))
            assert (work / name).read_bytes().decode() == "".join(FORMATS[kind](report, run))


@pytest.mark.asyncio
async def test_an_export_that_fails_says_why_and_leaves_no_file(run: Path, tmp_path: Path) -> None:
    async with app_on(run) as pilot:
        await pilot.press("e")
        await settled(pilot)
        (run / "events.jsonl").unlink()
        pilot.app.screen.query_one("#jsonl", RadioButton).value = True
        await settled(pilot)
        await pilot.press("tab", "enter")
        await until(pilot, lambda: "no run here" in screen_text(pilot))
    assert not list((tmp_path / "work").glob("quail-*"))
