"""The forgetting panel: what is back leads, every metric that has a say is there, and nothing overflows."""

from pathlib import Path

import pytest

from quail_audit.schema.events.audit import KnowledgeMeasured, RecoveryMeasured, SampleScored
from quail_audit.schema.older import Recovery
from quail_audit.tui.widgets.forgetting import ForgettingPanel, gauge
from tests.support.app_driver import app_on, screen_text, settled, until
from tests.support.every_metric import every_metric
from tests.support.made_runs import FORMATS, events, write_run

LINES_THAT_DECIDE = ("VerbMem", "probability", "extraction", "KnowMem", "probability", "extraction")


@pytest.mark.parametrize(
    ("percent", "low", "high", "drawn"),
    [
        (100.0, 59.0, 121.0, "█████▓▓▓▓░"),
        (0.0, -20.0, 8.0, "░·········"),
        (-14.0, -91.0, 6.0, "░·········"),
        (0.5, 0.5, 0.5, "█·········"),
        (0.0, 0.0, 0.0, "··········"),
        (33.0, 33.0, 33.0, "███·······"),
        (120.0, 130.0, 125.0, "██████████"),
    ],
)
def test_a_gauge_has_the_range_in_three_parts(percent: float, low: float, high: float, drawn: str) -> None:
    assert gauge(percent, low, high, 10) == drawn


@pytest.mark.asyncio
@pytest.mark.parametrize("samples", [8, 120])
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_what_decides_comes_first_and_all_of_it_fits(tmp_path: Path, size: tuple[int, int], samples: int) -> None:
    schemes = ("nf4", FORMATS[6])
    run = write_run(tmp_path / "run", every_metric(events(blocks=1, schemes=schemes, samples=samples)))
    async with app_on(run, size) as pilot:
        if size[0] == 80:
            await pilot.press("2")
            await settled(pilot)
        panel = pilot.app.screen.query_one(ForgettingPanel)
        await until(
            pilot,
            lambda: f"✗ {samples} of {samples} texts and {samples} of {samples} answers are back" in screen_text(pilot),
        )
        assert panel.max_scroll_x == 0
        lines = str(panel._scores.content).splitlines()
        assert max(len(line.rstrip()) for line in lines) <= panel.scrollable_content_region.width
        figures = [line for line in lines[2:] if line[:13].strip()]
        titles = [line[:13].strip() for line in figures]
        assert titles[:8] == [*LINES_THAT_DECIDE, "VerbMem kept", "Min-40% AUC"]
        for line in figures[:6]:
            assert f"{samples} of {samples}" in line
            assert "✗" in line
            assert "┊" in line
        assert all(f"n {samples}" in line for line in figures[6:])
        assert " % [" in figures[6]
        await pilot.press("x")
        await settled(pilot)
        assert panel.max_scroll_x == 0
        assert f"── at {FORMATS[6]}" in screen_text(pilot) or size[0] < 200


@pytest.mark.asyncio
async def test_of_an_older_run_what_is_known_is_shown_without_items(tmp_path: Path) -> None:
    made = []
    for event in events(blocks=1, samples=6):
        if isinstance(event, KnowledgeMeasured):
            outcome = "reported only" if event.metric == "privleak" else "recovered"
            recovery = Recovery(outcome=outcome, percent=97.0, low=91.0, high=103.0, floor=30.0)
            made.append(RecoveryMeasured(scheme=event.scheme, metric=event.metric, recovery=recovery))
        elif isinstance(event, SampleScored) and event.metric == "verbmem_retain":
            continue
        else:
            made.append(event)
    async with app_on(write_run(tmp_path / "run", iter(made)), (200, 60)) as pilot:
        text = screen_text(pilot)
        assert "Forgetting at nf4" in text
        line = next(line for line in text.splitlines() if " VerbMem " in line)
        assert "97 % [91, 103] ✗" in line
        assert " n 6 " in line
        assert " of 6 " not in line
        await pilot.press("s")
        await settled(pilot)
        assert "▲" in screen_text(pilot)
