"""Driving the app in tests: opening it on a run, and waiting for what it does by itself."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens.base import QuailScreen

TURNS = 5  # from a key to the last of what it leads to there are three or four
PATIENCE_S = 60.0  # a machine may stand still for long; only a failure takes so long


@asynccontextmanager
async def app_on(run: Path | None = None, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Pilot[None]]:
    """The app on a run that is over, with everything read and drawn."""
    app = QuailApp(run)
    async with app.run_test(size=size, notifications=True) as pilot:
        if run is not None:
            await until(pilot, lambda: all(live.is_over for live in app.live_runs.values()))
        await settled(pilot)
        yield pilot


async def until(pilot: Pilot[None], is_so: Callable[[], object]) -> None:
    """Wait for something that the app does by itself."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"it never came:\n{screen_text(pilot)}"
        await pilot.pause(0.02)


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the screen on top has drawn what is known."""
    await _turns(pilot)
    if isinstance(pilot.app.screen, QuailScreen):
        pilot.app.screen.show_changes()
    await _turns(pilot)


async def _turns(pilot: Pilot[None]) -> None:
    """Let the app handle its messages and what comes of them, however long a machine that stands still takes to."""
    for _ in range(TURNS):
        await pilot.pause(0.02)


def screen_text(pilot: Pilot[None]) -> str:
    """What is on the screen, line by line."""
    compositor = pilot.app.screen._compositor
    return "\n".join("".join(segment.text for segment in strip) for strip in compositor.render_strips())
