"""How quick the app is: replaying a long run, and from key to screen while every core is busy. Judges nothing."""

import asyncio
import multiprocessing
import time
from pathlib import Path

import psutil
import pytest

from quail_audit.tui.app import QuailApp
from tests.support.app_in_terminal import app_in_terminal
from tests.support.made_runs import events, write_run

pytestmark = pytest.mark.slow

MODES = ("overlap", "survival", "update/bucket", "brings back", "risk")
PRESSES = 200


def test_replay_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 blocks × 7 roles, 4 schemes, 9,600 samples on each of 11 arms: over 100,000 events."""
    monkeypatch.setenv("QUAIL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    made = events(blocks=80, schemes=("nf4", "fp4", "nf4-dq", "fp4-dq"), samples=1600)
    folder = write_run(tmp_path / "run", made)
    gaps_s: list[float] = []

    async def replay() -> tuple[int, float, int]:
        app = QuailApp()
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.pause(0.5)
            before_bytes = psutil.Process().memory_info().rss
            began_s = last_s = time.perf_counter()
            app.open_run(folder)
            run = app.live_runs[folder]
            while not run.is_over:
                await asyncio.sleep(0.002)
                now_s = time.perf_counter()
                gaps_s.append(now_s - last_s)
                last_s = now_s
            return run.changes, last_s - began_s, psutil.Process().memory_info().rss - before_bytes

    count, took_s, grown_bytes = asyncio.run(replay())
    gaps_s.sort()
    print(
        f"\n{count:,} events in {took_s:.2f} s: {count / took_s:,.0f} events/s; the event loop was held up "
        f"{1e3 * gaps_s[int(0.95 * len(gaps_s))]:.0f} ms at the 95th percentile, {1e3 * gaps_s[-1]:.0f} ms at worst; "
        f"memory grew by {grown_bytes / 2**20:.0f} MiB"
    )


def _burn() -> None:
    while True:
        pass


@pytest.mark.parametrize("busy", [0, multiprocessing.cpu_count()], ids=["quiet", "every-core-busy"])
def test_from_key_to_screen(tmp_path: Path, busy: int) -> None:
    """Changes what the heat map shows, 200 times, and waits for each to be drawn."""
    folder = write_run(tmp_path / "run", events(blocks=32, schemes=("nf4", "fp4")))
    burning = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(busy)]
    with app_in_terminal(tmp_path, "watch", str(folder), "--tui") as terminal:
        terminal.wait_for("FAIL")
        terminal.drain(1.0)
        for process in burning:
            process.start()
        try:
            took_s = []
            for press in range(PRESSES):
                pressed_s = time.perf_counter()
                terminal.press("m")
                took_s.append(terminal.wait_for(MODES[press % len(MODES)]) - pressed_s)
                terminal.drain(0.02)
        finally:
            for process in burning:
                process.kill()
                process.join()
    took_s.sort()
    print(
        f"\n{busy} other busy processes: key to screen {1e3 * took_s[PRESSES // 2]:.0f} ms in the median, "
        f"{1e3 * took_s[int(0.95 * PRESSES)]:.0f} ms at the 95th percentile, {1e3 * took_s[-1]:.0f} ms at worst"
    )
