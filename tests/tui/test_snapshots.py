"""Every screen as a picture, at three sizes in two themes, on made runs with fixed clocks.

`pytest tests/tui/test_snapshots.py --snapshot-update` accepts what is drawn now: look at the pictures before doing so.
"""

import datetime
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from quail_audit.schema.policy import Limits, OtherLimits, Policy, Requirements, Rule, Waiver
from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens import start
from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.screens.compare import CompareScreen
from quail_audit.tui.screens.confirm import ConfirmScreen
from quail_audit.tui.screens.cure import CureScreen
from quail_audit.tui.screens.training import TrainingScreen
from quail_audit.tui.widgets.runs_table import RunsTable
from tests.support.app_driver import settled, until
from tests.support.made_cures import write_carry
from tests.support.made_runs import FORMATS, ROLES, events, judged_by, write_attribution, write_run
from tests.support.made_trainings import REQUESTED, install_commands, repaired, training_events, write_training
from tests.support.preflight_answers import ANSWERS

# The default run draws every screen at every size once, and in both themes; the slow one draws the rest as well.
DRAWN = [((80, 24), "quail-dark"), ((120, 40), "quail-light"), ((200, 60), "quail-dark")]
DRAWN_SLOWLY = [((80, 24), "quail-light"), ((120, 40), "quail-dark"), ((200, 60), "quail-light")]
NOON_S = 1_767_268_800.0  # 1 January 2026, 12:00 UTC

Draw = Callable[[Pilot[Any]], Awaitable[None]]


@pytest.fixture(autouse=True)
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of noon, looked at half an hour later; what looks at choices answers at once."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    install_commands(tmp_path / "plug-in", monkeypatch, train="tests.support.slow_commands:train")
    Path("muse-news").mkdir()
    runs = Path(".quail") / "runs"
    made = {
        "failed": events(blocks=32, schemes=("nf4", "fp4")),
        "repaired": repaired(events(blocks=32, schemes=("nf4", "fp4"), outcome="pass")),
        "stopped": iter(list(events(blocks=32))[:900]),
    }
    for age, (name, of_run) in enumerate(made.items()):
        written_s = NOON_S - 3600 * age
        os.utime(write_run(runs / name, of_run) / "events.jsonl", (written_s, written_s))
    monkeypatch.setattr(time, "time", lambda: NOON_S + 1800)
    monkeypatch.setattr(start, "CHECK_AFTER_S", 0.02)
    real = start.Preflight
    monkeypatch.setattr(
        start, "Preflight", lambda *arguments: real(*arguments, command=(sys.executable, "-c", ANSWERS))
    )


async def opened(pilot: Pilot[Any], *keys: str) -> None:
    """The failed run with everything read, and then some keys."""
    app = pilot.app
    assert isinstance(app, QuailApp)
    await until(pilot, lambda: isinstance(app.screen, AuditScreen) and app.screen.run.is_over)
    await settled(pilot)
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


async def draw_start(pilot: Pilot[Any]) -> None:
    pilot.app.pop_screen()
    screen = pilot.app.screen
    assert isinstance(screen, start.StartScreen)
    await until(pilot, lambda: len(screen.query("SchemeBox")) == 3)
    for entry in screen.query(Input):
        entry.cursor_blink = False
    for topic, value in {"original": "llama-news-7b", "unlearned": "wrong", "data": "muse-news"}.items():
        screen.query_one(f"#{topic}", Input).value = value
    found = screen._checks.found
    await until(pilot, lambda: all(found.get(topic) for topic in ("original", "unlearned", "data")))
    await until(pilot, lambda: screen.query_one(RunsTable).row_count == 3)


async def draw_live(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, QuailApp)
    app.pop_screen()
    app.open_run(Path(".quail/runs/stopped"))
    await opened(pilot, "2")


async def draw_formats(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, QuailApp)
    app.pop_screen()
    app.open_run(write_run(Path("formats"), events(blocks=32, schemes=FORMATS, samples=4, outcome="mixed")))
    await opened(pilot, "f", "down")


async def draw_attributed(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, QuailApp)
    app.pop_screen()
    run = write_run(Path("attributed"), events(blocks=32, samples=4))
    places = [(block, place) for block in (0, 1, 2, 5) for place in range(2, 7)]
    shares = {f"model.layers.{b}.{ROLES[place]}": 0.4 / (1 + b) - 0.02 * place**2 / (1 + b) for b, place in places}
    write_attribution(run, shares)
    app.open_run(run)
    await opened(pilot, "1", "m", "m", "m", "m")


async def draw_policy(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, QuailApp)
    app.pop_screen()
    policy = Policy(
        limits=Limits(where=(OtherLimits(schemes=("fp4",), max_known_percent=60.0),)),
        required=Requirements(samples={"verbmem_forget": 100}),
        rules=(
            Rule(name="the MLPs carry their updates", figure="survival", layers=("*.mlp.*",), at_least=0.8),
            Rule(name="utility", figure="score", metrics=("verbmem_retain",), at_least=40.0),
        ),
        waivers=(
            Waiver(rule="the MLPs*", reason="kept in 16 bits", owner="release", expires=datetime.date(2026, 6, 30)),
            Waiver(rule="utility", reason="was low once", owner="data", expires=datetime.date(2025, 12, 31)),
        ),
    )
    made = judged_by(policy, events(blocks=8, schemes=("nf4", "fp4"), samples=4))
    app.open_run(write_run(Path("judged"), made))
    await opened(pilot, "p")


async def draw_compare(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, QuailApp)
    before, after = app.live_run(Path(".quail/runs/failed")), app.live_run(Path(".quail/runs/repaired"))
    await until(pilot, lambda: before.is_over and after.is_over)
    app.push_screen(CompareScreen(before, after))
    await settled(pilot)


async def draw_cure(pilot: Pilot[Any]) -> None:
    from quail_audit.tui.live.cure import LiveCure

    app = pilot.app
    assert isinstance(app, QuailApp)
    folder = write_carry(Path(".quail/runs/carry")).absolute()
    cure = app.cures[folder] = LiveCure(folder, "carry")
    await until(pilot, lambda: cure.is_over)
    app.push_screen(CureScreen(cure, app.live_run(Path(".quail/runs/failed"))))
    await settled(pilot)


async def draw_training(pilot: Pilot[Any]) -> None:
    from quail_audit.tui.live.training import LiveTraining

    app = pilot.app
    assert isinstance(app, QuailApp)
    folder = write_training(Path(".quail/runs/training"), training_events()).absolute()
    training = app.trainings[folder] = LiveTraining(folder, REQUESTED)
    await until(pilot, lambda: training.is_over)
    app.push_screen(TrainingScreen(training, app.live_run(Path(".quail/runs/failed"))))
    await settled(pilot)


async def draw_question(pilot: Pilot[Any]) -> None:
    pilot.app.push_screen(ConfirmScreen("An audit is still running. Stop it and quit?", "Stop and quit"))
    await settled(pilot)


def keys(*pressed: str) -> Draw:
    """Press them on the audit screen of the failed run."""

    async def press(pilot: Pilot[Any]) -> None:
        for key in pressed:
            await pilot.press(key)
            await settled(pilot)

    return press


SCREENS: dict[str, Draw] = {
    "start": draw_start,
    "audit": keys("1", "m", "m"),
    "audit-stopped": draw_live,
    "audit-formats": draw_formats,
    "audit-attributed": draw_attributed,
    "policy": draw_policy,
    "layer": keys("3", "o", "enter"),
    "samples": keys("s"),
    "remediate": keys("r"),
    "cure": draw_cure,
    "retrain": keys("r", "r"),
    "training": draw_training,
    "compare": draw_compare,
    "help": keys("question_mark"),
    "log": keys("ctrl+l"),
    "export": keys("e"),
    "question": draw_question,
}


SLOW_SCREENS = {"audit-attributed", "cure", "policy"}  # much like others that the default run draws


def looks() -> list[Any]:
    slowly = {look: [pytest.mark.slow] for look in DRAWN_SLOWLY}
    every = sorted(DRAWN + DRAWN_SLOWLY)
    return [
        pytest.param(size, theme, id=f"{size[0]}x{size[1]}-{theme}", marks=slowly.get((size, theme), ()))
        for size, theme in every
    ]


def screens() -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW_SCREENS else ()) for name in SCREENS]


@pytest.mark.parametrize(("size", "theme"), looks())
@pytest.mark.parametrize("screen", screens())
def test_screen(screen: str, size: tuple[int, int], theme: str, snap_compare: Any) -> None:
    async def draw(pilot: Pilot[Any]) -> None:
        await opened(pilot)
        pilot.app.theme = theme
        await SCREENS[screen](pilot)
        await settled(pilot)

    assert snap_compare(QuailApp(Path(".quail/runs/failed")), terminal_size=size, run_before=draw)
