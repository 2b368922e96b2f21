"""Remediate and the screen of a cure, driven by keys: what is prescribed, and a cure that goes well, or does not."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from quail_audit.runs.folder import read_report
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.app import QuailApp
from quail_audit.tui.live.child import Child
from quail_audit.tui.screens.compare import CompareScreen
from quail_audit.tui.screens.confirm import ConfirmScreen
from quail_audit.tui.screens.cure import CureScreen
from quail_audit.tui.screens.remediate import RemediateScreen
from quail_audit.tui.screens.retrain import RetrainScreen
from quail_audit.tui.widgets.heat_map import HeatMap
from quail_audit.verdict.prescription import prescribe
from tests.support.app_driver import app_on, screen_text, settled, until
from tests.support.made_cures import write_carry
from tests.support.made_runs import events, write_attribution, write_run
from tests.support.made_trainings import install_commands

COMMANDS = {"train": "tests.support.slow_commands:train", "made_audit": "tests.support.slow_commands:made_audit"}
CURES = {"carry": "tests.support.made_cures:carry", "made_attribute": "tests.support.made_cures:attribute"}

pytestmark = pytest.mark.asyncio


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An audit that failed, in the working folder, with stand-ins for every command that a cure runs."""
    monkeypatch.chdir(tmp_path)
    install_commands(tmp_path / "plug-in", monkeypatch, **COMMANDS, **CURES)
    monkeypatch.setattr(
        "quail_audit.tui.app_base.audit_arguments", lambda request, run_dir: ["made-audit", "--run-dir", str(run_dir)]
    )
    monkeypatch.setattr("quail_audit.tui.app_base.Child", started_child)
    return write_run(tmp_path / "run", events(blocks=8, samples=4))


def started_child(arguments: Sequence[str]) -> Child:
    """The app's process for a command, with a stand-in for `attribute`: no plug-in takes that name from Quail."""
    command, *rest = arguments
    return Child(["made-attribute" if command == "attribute" else command, *rest])


async def remediate(pilot: Pilot[Any]) -> RemediateScreen:
    await pilot.press("r")
    await settled(pilot)
    assert isinstance(pilot.app.screen, RemediateScreen)
    return pilot.app.screen


def said(screen: Any, name: str) -> str:
    return str(screen.query_one(name, Static).content)


async def test_every_cure_is_shown_as_the_command_prescribes_it(run: Path) -> None:
    advice = prescribe(read_report(run), "run", "nf4")
    assert len(advice.prescriptions) == 4
    async with app_on(run) as pilot:
        screen = await remediate(pilot)
        assert advice.finding in said(screen, "#finding")
        for number, found in enumerate(advice.prescriptions, start=1):
            assert f"{number}. {found.cure}" in screen_text(pilot)
            shown = said(screen, "#cure-text")
            for part in (found.why, found.measured, *found.shown):
                assert part in shown
            await pilot.press("c")
            assert pilot.app.clipboard == "\n".join(map(shlex.join, found.commands))
            await pilot.press("j")
            await settled(pilot)
        await pilot.press("k", "k", "enter")  # the list is a ring: from the first to the last but one
        await settled(pilot)
        assert isinstance(pilot.app.screen, RetrainScreen), "a retraining is made ready first"
        await pilot.press("escape", "escape")
        assert pilot.app.screen is not screen


@pytest.mark.slow
async def test_where_nothing_came_back_there_is_nothing_to_start(tmp_path: Path) -> None:
    async with app_on(write_run(tmp_path / "held", events(samples=4, outcome="pass"))) as pilot:
        screen = await remediate(pilot)
        assert "nothing to repair" in said(screen, "#finding")
        await pilot.press("ctrl+r", "w", "c")
        assert pilot.app.screen is screen
        assert not pilot.app.cures  # type: ignore[attr-defined]


async def test_a_carry_is_followed_and_its_result_audited_and_compared(run: Path) -> None:
    async with app_on(run) as pilot:
        app = pilot.app
        assert isinstance(app, QuailApp)
        await remediate(pilot)
        await pilot.press("ctrl+r")
        screen = app.screen
        assert isinstance(screen, CureScreen)
        assert screen.cure.command == prescribe(read_report(run), "run", "nf4").prescriptions[0].commands[0]
        await until(pilot, lambda: screen.cure.stage == "finished")
        await settled(pilot)
        assert "output error 49 % of nearest rounding's" in said(screen, "#lines")
        assert "Press a to audit it" in said(screen, "#standing")
        await pilot.press("c")
        assert app.clipboard == shlex.join(screen.cure.command)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        await pilot.press("escape", "escape")
        await settled(pilot)
        assert "carry finished: w opens it" in screen_text(pilot)
        await pilot.press("w")
        assert isinstance(app.screen, CureScreen)


@pytest.mark.slow
async def test_an_attribution_goes_into_the_audits_folder_and_its_heat_map(run: Path) -> None:
    async with app_on(run) as pilot:
        app = pilot.app
        screen = await remediate(pilot)
        await pilot.press("j", "j", "j")
        await settled(pilot)
        assert "quail attribute run" in said(screen, "#cure-text")
        await pilot.press("ctrl+r")
        cure = app.screen
        assert isinstance(cure, CureScreen)
        await until(pilot, lambda: cure.cure.stage == "finished")
        await settled(pilot)
        assert "layer model.layers.0.self_attn.q_proj brings back 22 %" in said(cure, "#lines")
        assert cure.cure.folder.parent == run / "cures"
        await pilot.press("a")  # it made nothing that could be audited
        assert app.screen is cure
        await pilot.press("escape")
        await settled(pilot)
        assert "quail attribute run" not in said(screen, "#cure-text"), "it has told"
        assert "quail recipe run" in said(screen, "#cure-text")
        await pilot.press("escape", "m", "m", "m", "m")
        await settled(pilot)
        assert "22%" in screen_text(pilot)
        assert app.screen.query_one(HeatMap).mode == "brings back"


@pytest.mark.slow
async def test_a_cure_that_fails_says_why_and_what_mends_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_CURE", "fails")
    async with app_on(run) as pilot:
        await remediate(pilot)
        await pilot.press("ctrl+r")
        screen = pilot.app.screen
        assert isinstance(screen, CureScreen)
        await until(pilot, lambda: screen.cure.stage == "stopped")
        await settled(pilot)
        shown = said(screen, "#standing")
        assert "environment, exit code 4: carried: the disk is full" in shown
        assert "Free some space" in shown


@pytest.mark.slow
async def test_a_cure_is_stopped_by_a_key_and_by_quitting_after_a_question(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADE_CURE", "endless")
    async with app_on(run) as pilot:
        await remediate(pilot)
        await pilot.press("ctrl+r")
        screen = pilot.app.screen
        assert isinstance(screen, CureScreen)
        await until(pilot, lambda: bool(screen.cure.state.carried))
        await pilot.press("escape", "ctrl+r")  # what goes on is not started twice
        assert isinstance(pilot.app.screen, CureScreen)
        assert pilot.app.screen.cure is screen.cure
        await pilot.press("q")
        assert isinstance(pilot.app.screen, ConfirmScreen)
        assert "A cure is still running" in pilot.app.screen._question
        await pilot.press("n", "ctrl+x")
        await until(pilot, lambda: screen.cure.stage == "stopped")
        await settled(pilot)
        assert "interrupted, exit code 130" in said(pilot.app.screen, "#standing")


@pytest.mark.slow
async def test_what_is_not_installed_is_not_started(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_commands(tmp_path / "without", monkeypatch, **COMMANDS)
    write_attribution(run, {"model.layers.0.self_attn.q_proj": 0.2})
    async with app_on(run) as pilot:
        screen = await remediate(pilot)
        await pilot.press("ctrl+r")
        await settled(pilot)
        assert pilot.app.screen is screen
        assert "quail carry is not installed here" in screen_text(pilot)


@pytest.mark.slow
async def test_a_cures_folder_opens_as_a_cure(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after quail watch RUN --tui; of a carry without its audit the result is audited by its weights alone."""
    asked: list[AuditRequest] = []
    monkeypatch.setattr(QuailApp, "start_audit", lambda self, request: asked.append(request))
    (run.parent / "quail.toml").touch()
    attribution = write_attribution(run, {"model.layers.0.self_attn.q_proj": 0.2})
    for folder, of_an_audit in ((write_carry(run.parent / "carry"), False), (attribution, True)):
        app = QuailApp(folder)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda app=app: isinstance(app.screen, CureScreen) and app.screen.cure.is_over)
            await settled(pilot)
            screen = app.screen
            assert isinstance(screen, CureScreen)
            assert (screen._before is not None) == of_an_audit
            assert "FINISHED" in screen_text(pilot)
            assert "quail carry" in screen_text(pilot) or of_an_audit
            await pilot.press("a")
            await settled(pilot)
    (request,) = asked
    assert (request.unlearned, request.data) == ("models/llama-news-7b-unlearned-carried", None)
    assert (request.schemes, request.policy) == (("nf4",), "quail.toml")
