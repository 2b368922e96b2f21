"""The keys at the foot: as many as fit, none cut, help and quitting always there."""

from pathlib import Path

import pytest

from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.screens.retrain import RetrainScreen
from tests.support.app_driver import app_on, screen_text, settled, until
from tests.support.made_runs import events, write_run


def foot(text: str) -> str:
    return text.splitlines()[-1].strip()


@pytest.mark.asyncio
async def test_the_last_keys_leave_as_the_terminal_narrows_and_come_back(tmp_path: Path) -> None:
    every = "⏎ Layer s Samples r Remediate c Compare e Export f Formats p Policy ? Help ^p Commands q Quit"
    run = write_run(tmp_path / "run", events(schemes=("nf4", "fp4")))
    async with app_on(run, (len(every), 40)) as pilot:
        assert isinstance(pilot.app.screen, AuditScreen)
        assert foot(screen_text(pilot)) == every
        for columns, shown in (
            (len(every) - 1, every.replace(" ^p Commands", "")),
            (80, every.replace(" p Policy", "").replace(" ^p Commands", "")),
            (40, "⏎ Layer s Samples ? Help q Quit"),
            (15, "? Help q Quit"),
            (len(every), every),
        ):
            await pilot.resize_terminal(columns, 40)
            await until(pilot, lambda shown=shown: foot(screen_text(pilot)) == shown)


@pytest.mark.asyncio
async def test_a_key_without_room_works(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", events(blocks=2))
    async with app_on(run, (60, 24)) as pilot:
        assert "Commands" not in foot(screen_text(pilot))
        await pilot.press("r", "r")
        await until(pilot, lambda: isinstance(pilot.app.screen, RetrainScreen))
        await settled(pilot)
        await pilot.press("N")
        await until(pilot, lambda: "no layer is chosen" in screen_text(pilot))
        assert foot(screen_text(pilot)).endswith("? Help q Quit")
