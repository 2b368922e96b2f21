"""The app on a run from elsewhere, in which every name and every text is hostile: each screen shows it as text."""

from pathlib import Path

import pytest

from tests.support.app_driver import app_on, screen_text, settled
from tests.support.hostile_run import acts_on_terminal, run

__all__ = ["run"]  # a fixture

KEYS = "f p escape enter escape s enter escape r escape e escape question_mark"


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_every_screen_shows_it_as_text(run: Path, size: tuple[int, int]) -> None:
    async with app_on(run, size) as pilot:
        shown = set()
        for key in KEYS.split():
            await pilot.press(key)
            await settled(pilot)
            text = screen_text(pilot)
            assert not acts_on_terminal(text)
            if "[/nope]" in text:
                shown.add(type(pilot.app.screen).__name__)
    assert {"AuditScreen", "LayerScreen", "SamplesScreen"} <= shown
