"""Takes the pictures of docs/screenshots: every screen of the app, on the demo's audit and repair. `make screenshots`.

Runs from the folder that holds, or will hold, quail-demo. Nothing of the machine shows but what was measured on it.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from textual.pilot import Pilot
from textual.widgets import Static

from quail_audit.core.errors import EXIT_FAIL, EXIT_PASS
from quail_audit.runs.folder import RunSummary, list_runs
from quail_audit.runs.names import EVENTS, REQUEST, RUNS_FOLDER
from quail_audit.schema.requests import TrainRequest
from quail_audit.tui.app import QuailApp
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.live.training import LiveTraining
from quail_audit.tui.screens.compare import CompareScreen
from quail_audit.tui.screens.training import TrainingScreen

DEMO = Path("quail-demo")
PICTURES = Path(__file__).parent / "screenshots"
USUAL, SMALL, LARGE = (120, 40), (80, 24), (200, 60)
LARGEST_BYTES = 300_000
PATIENCE_S = 60.0
AFTERWARDS_S = 300.0  # the clock of the pictures: so long after the last run was written
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # from another host; without it the reader's own is used


def demo_runs() -> tuple[RunSummary, Path]:
    """The demo's audit, and the folder of its repair; run first where there is none."""
    for attempt in range(2):
        audits = [run for run in list_runs(RUNS_FOLDER, limit=100) if _is_the_demos(run)]
        repairs = sorted(RUNS_FOLDER.glob(f"*/audit/{EVENTS}"))
        if audits and repairs:
            return audits[0], repairs[-1].parent.parent
        if attempt == 0 and subprocess.call([sys.executable, "-m", "quail_audit", "demo", str(DEMO), "--repair"]):
            break
    sys.exit(f"quail demo {DEMO} --repair did not end with {EXIT_PASS}")


def _is_the_demos(run: RunSummary) -> bool:
    return run.request.unlearned == str(DEMO / "unlearned") and run.exit_code == EXIT_FAIL


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    """Wait for what the app does by itself, then for what it draws."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{type(pilot.app.screen).__name__} did not get there")
        await pilot.pause(0.05)
    await pilot.pause(0.5)
    await pilot.pause()


def is_read(app: QuailApp) -> bool:
    """Whether every run that is open has been read to its end."""
    return all(run.is_over for run in app.followed)


async def press(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await until(pilot, lambda: True)


def smaller(picture: str) -> str:
    """The same picture in fewer bytes: what every rectangle says is said once, and a blank is one character."""
    crisp = ' shape-rendering="crispEdges"'
    once = picture.replace(crisp, "").replace("<style>", "<style>rect {shape-rendering: crispEdges}", 1)
    return once.replace("&#160;", "\N{NO-BREAK SPACE}")


def save(app: QuailApp, name: str) -> None:
    """Write the picture of what is on the screen."""
    picture = smaller(FONT_FACE.sub("", app.export_screenshot(title="Quail")))
    for place in (str(Path.cwd()), str(Path.home()), tempfile.gettempdir()):
        if place != "/" and place in picture:
            sys.exit(f"{name}: shows {place}, which is this machine's")
    if len(picture.encode()) > LARGEST_BYTES:
        sys.exit(f"{name}: {len(picture.encode()):,} bytes, more than {LARGEST_BYTES:,}")
    (PICTURES / f"{name}.svg").write_text(picture)
    print(f"{name}.svg")


async def take_start() -> None:
    app = QuailApp()
    async with app.run_test(size=USUAL) as pilot:
        await until(pilot, lambda: "✓ ready" in _text(app.screen.query_one("#readiness", Static)))
        save(app, "start")


def _text(widget: Static) -> str:
    return str(widget.render())


async def take_run(run: Path, repair: Path) -> None:
    """The audit, and all that is reached from it."""
    app = QuailApp(run)
    async with app.run_test(size=USUAL) as pilot:
        await until(pilot, lambda: is_read(app))
        await press(pilot, "o", "g")
        save(app, "audit")
        await press(pilot, "enter")
        save(app, "layer")
        await press(pilot, "escape", "s")
        save(app, "samples")
        await press(pilot, "escape", "p")
        save(app, "policy")
        await press(pilot, "escape", "r")
        save(app, "remediate")
        await press(pilot, "r")
        save(app, "retrain")
        await press(pilot, "escape", "escape", "question_mark")
        save(app, "help")
        await press(pilot, "escape")

        before = app.live_run(run)
        training = LiveTraining(repair, TrainRequest.model_validate_json((repair / REQUEST).read_bytes()))
        await read(pilot, training)
        await app.push_screen(TrainingScreen(training, before))
        await press(pilot)
        await until(pilot, lambda: True)
        save(app, "training")
        training.close()
        app.pop_screen()

        after = app.live_run(repair / "audit")
        await until(pilot, lambda: is_read(app))
        await app.push_screen(CompareScreen(before, after))
        await until(pilot, lambda: True)
        save(app, "compare")


async def read(pilot: Pilot[None], followed: LiveRun | LiveTraining) -> None:
    """Take in everything of a run that the app does not follow by itself."""
    while not followed.is_over:
        followed.advance(0.1)
        await pilot.pause(0.05)


async def take_audit(run: Path, name: str, size: tuple[int, int], theme: str | None = None) -> None:
    app = QuailApp(run)
    async with app.run_test(size=size) as pilot:
        if theme is not None:
            app.theme = theme
        await until(pilot, lambda: is_read(app))
        await press(pilot, "o", "g")
        save(app, name)


async def take_all() -> None:
    run, repair = demo_runs()
    PICTURES.mkdir(exist_ok=True)
    now_s = max(path.stat().st_mtime for path in RUNS_FOLDER.rglob(EVENTS)) + AFTERWARDS_S
    with tempfile.TemporaryDirectory() as config, patch("time.time", lambda: now_s):
        os.environ["QUAIL_CONFIG_DIR"] = config
        pictures: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
            (take_start, ()),
            (take_run, (run.folder, repair)),
            (take_audit, (run.folder, "audit-80x24", SMALL)),
            (take_audit, (run.folder, "audit-200x60", LARGE)),
            (take_audit, (run.folder, "audit-light", USUAL, "quail-light")),
        ]
        for take, arguments in pictures:
            await take(*arguments)
            Path(config, "settings.json").unlink(missing_ok=True)  # each as on the first day


if __name__ == "__main__":
    asyncio.run(take_all())
