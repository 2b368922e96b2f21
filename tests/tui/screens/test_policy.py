"""The policy over the audit screen: every rule with its figure beside the limit, live, replayed and of old runs."""

import datetime
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports.rule_rows import rule_row
from quail_audit.runs.folder import new_run
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import RunStarted
from quail_audit.schema.policy import Limits, OtherLimits, Policy, Requirements, Rule, Waiver
from quail_audit.schema.preflight import PolicyFound
from quail_audit.tui.app import QuailApp
from quail_audit.tui.screens.audit import AuditScreen
from quail_audit.tui.screens.policy import PolicyScreen
from quail_audit.tui.widgets.forgetting import ForgettingPanel, gauge_cell
from quail_audit.tui.words.findings import details, finding
from quail_audit.verdict.judge import day_of, judge_report
from tests.support.app_driver import app_on, screen_text, settled, until
from tests.support.made_runs import events, judged_by, write_run

HOSTILE = "[red]MLPs[/red] \x1b[31m carry"
POLICY = Policy(
    limits=Limits(where=(OtherLimits(schemes=("fp4",), metrics=("knowmem_*",), max_known_percent=60.0),)),
    required=Requirements(samples={"verbmem_forget": 100}),
    rules=(
        Rule(name=HOSTILE, figure="survival", layers=("*.mlp.*",), at_least=0.8),
        Rule(name="retain score", figure="score", metrics=("verbmem_retain",), at_least=40.0),
        Rule(name="other formats", figure="overlap", schemes=("int8",), at_most=0.99),
    ),
    waivers=(
        Waiver(rule="[[]red*", reason="kept [b]in 16 bits[/b]", owner="\x1b]0;me", expires=datetime.date(2026, 6, 30)),
        Waiver(rule="required samples", reason="24 are all", owner="data@x", expires=datetime.date(2025, 12, 31)),
        Waiver(rule="retain score", reason="was low once", owner="data@x", expires=datetime.date(2026, 1, 1)),
    ),
)


def made(policy: Policy = POLICY, samples: int = 4) -> list[object]:
    return list(judged_by(policy, events(blocks=2, schemes=("nf4", "fp4"), samples=samples)))


def shown(pilot: Pilot[None]) -> str:
    """All of it, in one line: what wraps on a narrow screen is the same text."""
    assert isinstance(pilot.app.screen, PolicyScreen)
    text = pilot.app.screen.query_one("#policy-text", Static)
    lines = ["".join(segment.text for segment in strip) for strip in text.render_lines(text.size.region)]
    return " ".join(" ".join(lines).split())


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [pytest.param((80, 24), marks=pytest.mark.slow), (200, 60)])
async def test_every_rule_stands_there_as_policy_check_judges_it(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = write_run(tmp_path / "run", iter(made()))  # type: ignore[arg-type]
    async with app_on(folder, size) as pilot:
        assert (" p Policy" in screen_text(pilot)) == (size[0] > 80)  # 80 columns have no room for every key
        await pilot.press("p")
        await settled(pilot)
        text = shown(pilot)
        report = pilot.app.live_runs[folder].state.report()  # type: ignore[attr-defined]
        rules = judge_report(report, POLICY, day_of(report)).rules
        assert {rule.standing for rule in rules} == {"passed", "failed", "waived", "not judged"}
        assert "Judged by quail.toml ✗ FAIL" in text
        for rule in rules:
            row = rule_row(rule)
            assert " ".join(printable(rule.message).split()) in text
            for cell in (row.rule, row.about, row.figure, row.limit, row.outcome):
                assert " ".join(printable(cell).split()) in text, cell
        assert "\x1b" not in text
        assert "fp4 known ≤ 60 %" in text
        assert "by \\x1b]0;me: kept [b]in 16 bits[/b]" in text
        assert "✗ expired on 2025-12-31, which fails the release · by data@x: 24 are all" in text
        assert "until 2026-01-01 · by data@x: was low once · waived nothing" in text
        assert text.count("waived nothing") == 1
        await pilot.press("p")
        assert isinstance(pilot.app.screen, AuditScreen)


@pytest.mark.asyncio
@pytest.mark.slow
async def test_while_a_run_goes_on_it_says_what_will_be_judged_and_then_what_came_of_it(tmp_path: Path) -> None:
    every = made()
    first = every[0]
    assert isinstance(first, RunStarted)
    folder = tmp_path / "run"
    with new_run(folder, first.request), closing(record(iter(every), folder)) as written:  # type: ignore[arg-type]
        assert len(list(islice(written, 8))) == 8
        app = QuailApp(folder)
        async with app.run_test(size=(200, 60)) as pilot:
            await until(pilot, lambda: bool(app.live_runs) and app.live_runs[folder].state.policy is not None)
            await pilot.press("p")
            await settled(pilot)
            text = shown(pilot)
            assert "The rules are judged when everything is measured" in text
            assert "retain score score at least 40 · verbmem_retain" in text
            assert "other formats overlap at most 0.99 · at int8" in text
            assert "verbmem_forget at least 100 samples" in text
            assert "until 2026-01-01 · by data@x: was low once" in text
            assert "waived nothing" not in text
            assert "failed" not in text.replace("fails", "")
            assert list(written)
            await until(pilot, lambda: "✗ FAIL" in shown(pilot))
            assert "are judged when" not in shown(pilot)
            assert "✗ failed" in shown(pilot)


@pytest.mark.asyncio
@pytest.mark.slow
async def test_of_a_stopped_run_and_of_an_old_one_it_says_why_there_are_no_rules(tmp_path: Path) -> None:
    stopped = write_run(tmp_path / "stopped", iter(made()[:12]))  # type: ignore[arg-type]
    old = write_run(tmp_path / "old", events(blocks=2, samples=4))
    for folder, said in (
        (stopped, "stopped before its end, so its rules were not judged"),
        (old, "Judged by the default limits ✗ FAIL This run is older than rules are"),
    ):
        async with app_on(folder) as pilot:
            await pilot.press("p")
            await settled(pilot)
            assert said in shown(pilot)
            assert ("retain score" in shown(pilot)) == (folder is stopped)
            await pilot.press("escape")
            assert isinstance(pilot.app.screen, AuditScreen)


@pytest.mark.asyncio
@pytest.mark.slow
async def test_a_gauge_marks_the_limit_of_its_scheme_and_metric(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", iter(made()))  # type: ignore[arg-type]
    async with app_on(folder, (200, 60)) as pilot:
        for scheme, limits in (("nf4", (10.0, 10.0)), ("fp4", (10.0, 60.0))):
            panel = pilot.app.screen.query_one(ForgettingPanel).query_one(Static)
            lines = str(panel.content).splitlines()
            for title, limit in zip(("VerbMem ", "KnowMem "), limits, strict=True):
                line = next(line for line in lines if line.startswith(title))
                gauge = "".join(character for character in line if character in "█▓░·┊")
                assert gauge.index("┊") == gauge_cell(limit, len(gauge)), (scheme, title)
            await pilot.press("x")
            await settled(pilot)


def test_the_finding_of_a_policy_counts_what_it_holds() -> None:
    found = PolicyFound(policy=POLICY, day=datetime.date(2026, 1, 1))
    line = finding(found).line
    assert line.startswith("! 1 of 3 waivers expired · 3 rules · 1 requirement · 1 exception · ")
    assert line.endswith("known ≤ 10 % · back ≤ 10 % · utility ≥ 80 % · overlap < 0.999 · survival ≥ 0.5")
    later = finding(PolicyFound(policy=POLICY, day=datetime.date(2026, 1, 2))).line
    assert later.startswith("! 2 of 3 waivers expired")
    earlier = finding(PolicyFound(policy=POLICY, day=datetime.date(2025, 12, 31))).line
    assert earlier.startswith("3 waivers · 3 rules")
    plain = finding(PolicyFound(policy=Policy(), day=datetime.date(2026, 1, 1))).line
    assert plain == "known ≤ 10 % · back ≤ 10 % · utility ≥ 80 % · overlap < 0.999 · survival ≥ 0.5"


def test_the_details_of_a_policy_have_all_of_it_and_nothing_that_acts() -> None:
    rows = details(PolicyFound(policy=POLICY, day=datetime.date(2026, 1, 1)))
    assert dict(rows)["knowmem_* at fp4"] == "known ≤ 60 %"
    assert dict(rows)["[red]MLPs[/red] \\x1b[31m carry"] == "survival at least 0.8 · *.mlp.*"
    assert dict(rows)["waiver: required samples"].startswith("✗ expired on 2025-12-31")
    assert not any("\x1b" in text for row in rows for text in row)
