"""Retraining, driven by keys: the command they make, a training that goes well, is stopped, or dies."""

from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Select, Static

from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.app import QuailApp
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.screens.compare import CompareScreen
from quail_audit.tui.screens.confirm import ConfirmScreen
from quail_audit.tui.screens.remediate import RemediateScreen
from quail_audit.tui.screens.retrain import RetrainScreen
from quail_audit.tui.screens.training import TrainingScreen, bar
from quail_audit.tui.widgets.layer_picker import LayerPicker
from tests.support.app_driver import settled, until
from tests.support.made_runs import events as audit_events
from tests.support.made_runs import write_run
from tests.support.made_trainings import install_commands, write_training


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuailApp:
    """On a run of eight blocks, with a `train` that writes events and an audit that finds the result repaired."""
    monkeypatch.chdir(tmp_path)
    commands = {"train": "tests.support.slow_commands:train", "made_audit": "tests.support.slow_commands:made_audit"}
    install_commands(tmp_path / "plug-in", monkeypatch, **commands)
    monkeypatch.setattr(
        "quail_audit.tui.app_base.audit_arguments", lambda request, run_dir: ["made-audit", "--run-dir", str(run_dir)]
    )
    (tmp_path / "muse-news").mkdir()
    return QuailApp(write_run(tmp_path / "run", audit_events(blocks=8, schemes=("nf4", "fp4"))))


async def retrain(pilot: Pilot[Any]) -> RetrainScreen:
    app = pilot.app
    assert isinstance(app, QuailApp)
    await until(pilot, lambda: bool(app.live_runs) and next(iter(app.live_runs.values())).is_over)
    await settled(pilot)
    await pilot.press("r")
    await until(pilot, lambda: isinstance(app.screen, RemediateScreen))
    await pilot.press("r")
    await until(pilot, lambda: isinstance(app.screen, RetrainScreen))
    await settled(pilot)
    assert isinstance(app.screen, RetrainScreen)
    return app.screen


async def start(pilot: Pilot[Any]) -> tuple[TrainingScreen, LiveTraining]:
    await retrain(pilot)
    await pilot.press("ctrl+r")
    await until(pilot, lambda: isinstance(pilot.app.screen, TrainingScreen))
    screen = pilot.app.screen
    assert isinstance(screen, TrainingScreen)
    return screen, screen.training


def command(screen: RetrainScreen) -> str:
    return str(screen.query_one("#command-text", Static).content)


def said(screen: Any, name: str) -> str:
    return str(screen.query_one(name, Static).content)


@pytest.mark.asyncio
async def test_the_layers_at_risk_are_chosen_and_the_command_says_so(app: QuailApp, tmp_path: Path) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await retrain(pilot)
        picker = screen.query_one(LayerPicker)
        assert picker.chosen == picker.at_risk != frozenset()
        shown = command(screen)
        assert shown.startswith("quail train models/llama-news-7b models/llama-news-7b-unlearned --data muse-news")
        assert "--out llama-news-7b-unlearned-repaired --layers at-risk --report run" in shown


@pytest.mark.asyncio
async def test_layers_are_taken_and_left_by_keys(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await retrain(pilot)
        picker = screen.query_one(LayerPicker)
        await pilot.press("N")
        assert not picker.chosen
        assert "no layer is chosen" in str(screen.query_one("#command").border_title)
        await pilot.press("g", "space")
        assert picker.chosen == {"model.layers.0.self_attn.q_proj"}
        assert "--layers name:model.layers.0.self_attn.q_proj" in command(screen)
        await pilot.press("b")
        assert "--layers block:0" in command(screen)
        await pilot.press("b", "R")
        assert command(screen).endswith("--layers role:q_proj")
        await pilot.press("A")
        assert "--layers" not in command(screen)  # all is the default
        assert len(picker.chosen) == 56
        await pilot.press("a")
        assert picker.chosen == picker.at_risk
        await pilot.press("enter")
        assert picker.chosen == picker.at_risk ^ {"model.layers.0.self_attn.q_proj"}


@pytest.mark.asyncio
async def test_a_click_takes_a_layer(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await retrain(pilot)
        await pilot.press("N")
        await pilot.click("#layers", offset=(8, 2))
        await pilot.pause()
        assert screen.query_one(LayerPicker).chosen == {"model.layers.0.self_attn.q_proj"}


@pytest.mark.asyncio
async def test_settings_go_into_the_command_and_what_is_wrong_is_said(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await retrain(pilot)
        screen.query_one("#epochs", Input).focus()
        await pilot.press(*"2.5")
        await pilot.pause()
        assert "--epochs 2.5" in command(screen)
        await pilot.press("x")
        await pilot.pause()
        assert "Epochs must be a number above 0" in said(screen, "#explained")
        assert "not ready" in str(screen.query_one("#command").border_title)
        await pilot.press("ctrl+r")
        await pilot.pause()
        assert isinstance(app.screen, RetrainScreen)
        await pilot.press("escape")
        assert screen.query_one(LayerPicker).has_focus


@pytest.mark.asyncio
async def test_an_objective_with_settings_of_its_own_says_so_and_what_is_typed_is_written(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await retrain(pilot)
        screen.query_one("#objective", Select).value = "repair"
        await pilot.pause()
        assert screen.query_one("#hinge_weight", Input).placeholder == "repair's own"
        assert "--objective repair" in command(screen)
        screen.query_one("#hinge_weight", Input).value = "1"
        await pilot.pause()
        assert "--hinge-weight 1" in command(screen)


@pytest.mark.asyncio
async def test_another_scheme_has_other_layers_at_risk(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await retrain(pilot)
        screen.query_one("#scheme", Select).value = "fp4"
        await pilot.pause()
        assert "--scheme fp4" in command(screen)
        assert "--layers at-risk" in command(screen)


@pytest.mark.asyncio
async def test_keys_copy_watch_focus_and_go_back(app: QuailApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await retrain(pilot)
        await pilot.press("c")
        assert app.clipboard == command(screen)
        await pilot.press("w")  # there is no training yet
        assert app.screen is screen
        await pilot.press("2")
        assert screen.query_one("#objective").has_focus
        await pilot.press("escape", "1")
        assert screen.query_one(LayerPicker).has_focus
        await pilot.press("escape")
        assert app.screen is not screen


@pytest.mark.asyncio
async def test_without_a_train_command_the_screen_says_so_and_shows_the_command(
    app: QuailApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_commands(tmp_path / "no-plug-in", monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await retrain(pilot)
        assert "not installed" in said(screen, "#explained")
        assert "quail train" in command(screen)
        await pilot.press("ctrl+r")
        await pilot.pause()
        assert app.screen is screen
        assert not app.trainings


@pytest.mark.asyncio
async def test_a_training_is_followed_and_its_result_audited_and_compared(app: QuailApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        screen, training = await start(pilot)
        assert list(app.trainings.values()) == [training]
        await until(pilot, lambda: training.stage == "finished")
        await until(pilot, lambda: "FINISHED" in said(screen, "#standing"))
        assert "Press a to audit it" in said(screen, "#standing")
        assert "hinge satisfied" in said(screen, "#plots")
        assert "repaired" in said(screen, "#facts-text")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        compare = app.screen
        assert isinstance(compare, CompareScreen)
        assert compare.after is not None
        after = compare.after
        await until(pilot, lambda: after.is_over)
        await until(pilot, lambda: "PASS" in said(compare, "#after"))
        assert "FAIL" in said(compare, "#before")
        await pilot.press("escape", "a")  # the same audit, not another one
        assert isinstance(app.screen, CompareScreen)
        assert app.screen.after is after


@pytest.mark.asyncio
async def test_stopping_asks_then_says_what_was_saved(app: QuailApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_TRAINING", "endless")
    async with app.run_test(size=(120, 40)) as pilot:
        screen, training = await start(pilot)
        await until(pilot, lambda: len(training.state.steps) > 3)
        await pilot.press("ctrl+x")
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.press("n")
        assert training.is_running_here
        await pilot.press("ctrl+x", "y")
        await until(pilot, lambda: training.stage == "stopped" and not training.is_running_here)
        await until(pilot, lambda: "STOPPED" in said(screen, "#standing"))
        shown = said(screen, "#standing")
        assert "interrupted, exit code 130" in shown
        assert "saved: llama-news-7b-unlearned-repaired/checkpoint-" in shown
        await pilot.press("a")  # there is nothing to audit
        assert app.screen is screen


@pytest.mark.asyncio
async def test_quitting_asks_and_leaves_no_process(app: QuailApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_TRAINING", "endless")
    async with app.run_test(size=(120, 40)) as pilot:
        _, training = await start(pilot)
        await until(pilot, lambda: bool(training.state.steps))
        await pilot.press("q")
        assert isinstance(app.screen, ConfirmScreen)
        assert "A training is still running" in app.screen._question
        await pilot.press("y")
    assert training.child is not None
    assert training.child.exit_code is not None


@pytest.mark.parametrize(
    ("goes", "message"),
    [
        ("diverges", "the forget term became NaN at step 5"),
        ("raises", "ZeroDivisionError: by hand"),
    ],
)
@pytest.mark.asyncio
async def test_a_failure_is_shown_with_what_can_be_done(
    app: QuailApp, monkeypatch: pytest.MonkeyPatch, goes: str, message: str
) -> None:
    monkeypatch.setenv("MADE_TRAINING", goes)
    async with app.run_test(size=(120, 40)) as pilot:
        screen, training = await start(pilot)
        await until(pilot, lambda: training.stage == "stopped")
        await until(pilot, lambda: "STOPPED" in said(screen, "#standing"))
        assert message in said(screen, "#standing")
        assert "exit code 4" in said(screen, "#standing")
        assert training.state.steps  # what was done stays on screen
        await pilot.press("escape")
        await until(pilot, lambda: "training stopped" in said(app.screen, "#header"))
        await pilot.press("w")
        assert isinstance(app.screen, TrainingScreen)


@pytest.mark.asyncio
async def test_a_killed_training_says_by_what_and_what_to_try(app: QuailApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_TRAINING", "endless")
    async with app.run_test(size=(120, 40)) as pilot:
        screen, training = await start(pilot)
        await until(pilot, lambda: bool(training.state.steps))
        assert training.child is not None
        (command,) = psutil.Process(training.child._process.pid).children()
        command.kill()
        await until(pilot, lambda: training.stage == "stopped")
        await until(pilot, lambda: "STOPPED" in said(screen, "#standing"))
        shown = said(screen, "#standing")
        assert "the process that trained ended: killed by SIGKILL (signal 9)" in shown
        assert "smaller batch size" in shown


@pytest.mark.asyncio
async def test_keys_of_the_training_screen(app: QuailApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, training = await start(pilot)
        await until(pilot, lambda: training.stage == "finished")
        await pilot.press("c")
        assert app.clipboard.startswith("quail train models/llama-news-7b ")
        await pilot.press("2")
        assert screen.query_one("#facts").has_focus
        await pilot.press("1")
        assert screen.query_one("#plots").has_focus
        await until(pilot, lambda: not training.is_running_here)
        await pilot.press("ctrl+x")  # it is over
        assert app.screen is screen
        await pilot.press("escape")
        assert isinstance(app.screen, RetrainScreen)


def test_the_bar_fills_by_eighths() -> None:
    assert bar(0.0) == "·" * 24
    assert bar(1.0) == "█" * 24
    assert bar(1 / 48) == "▌".ljust(24, "·")


@pytest.mark.asyncio
async def test_a_trainings_folder_opens_as_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after quail watch RUN --tui; without the audit it began with, its result is audited on its own."""
    asked: list[AuditRequest] = []
    monkeypatch.setattr(QuailApp, "start_audit", lambda self, request: asked.append(request))
    Path("quail.toml").touch()
    app = QuailApp(write_training(tmp_path / "training"))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TrainingScreen) and app.screen.training.stage == "finished")
        await pilot.press("a")
        await until(pilot, lambda: bool(asked))
        assert (asked[0].original, asked[0].unlearned) == ("models/llama-news-7b", "repaired")
        assert (asked[0].data, asked[0].schemes, asked[0].policy) == ("muse-news", ("nf4",), "quail.toml")
