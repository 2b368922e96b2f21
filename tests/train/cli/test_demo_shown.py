import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quail_audit.schema.command_line import audit_arguments
from quail_audit.schema.requests import AuditRequest
from quail_train.cli import demo as cli
from quail_train.demo.building import DemoProgress
from quail_train.demo.sizes import DEMOS, LANGUAGE_DEMO, ClassifierDemo, LanguageDemo


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [
    DemoProgress("tokenizer", 1, 1),
    DemoProgress("original", 1, 3, loss=6.0),
    DemoProgress("original", 2, 3, loss=4.0),
    DemoProgress("original", 3, 3, loss=2.0),
    DemoProgress("data", 1, 1, message="already built"),
]


def shown(stream: io.StringIO) -> str:
    with cli._show_building(stream) as show:
        for progress in STEPS:
            show(progress)
    return stream.getvalue()


def test_a_log_gets_plain_lines() -> None:
    assert shown(io.StringIO()).splitlines() == [
        "demo: train the tokenizer: done",
        "demo: train the original, loss 6.00: 3 steps",
        "demo: train the original, loss 2.00: done",
        "demo: already built: done",
    ]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(Terminal())
    assert "train the original, loss 2.00" in text
    assert "3/3" in text
    assert "━" in text


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal())


@pytest.mark.parametrize("code", [1, 0, 5])
def test_the_audit_decides_the_exit_code(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[AuditRequest] = []

    def run_audit(request: AuditRequest, *, run_dir: Path, quiet: bool) -> int:
        asked.append(request)
        assert not quiet
        return code

    def build_demo(folder: Path, *, seed: int, sizes: LanguageDemo) -> Iterator[DemoProgress]:
        assert (folder, seed, sizes) == (tmp_path / "with space", 7, LANGUAGE_DEMO)
        yield from STEPS

    monkeypatch.setattr("quail_audit.cli.audit.run_audit", run_audit)
    monkeypatch.setattr("quail_train.demo.folder.build_demo", build_demo)
    assert cli.demo(tmp_path / "with space", seed=7) == code
    folder = tmp_path / "with space"
    assert asked == [
        AuditRequest(
            original=f"{folder}/original",
            unlearned=f"{folder}/unlearned",
            retrain=f"{folder}/retrain",
            data=f"{folder}/data",
        )
    ]
    written = capsys.readouterr()
    assert f"now: {shlex.join(['quail', *audit_arguments(asked[0])])}\n" in written.err
    assert ("that is how this demo is meant to end" in written.out) == (code == 1)
    assert ("was meant to end with exit code 1" in written.out) == (code != 1)


def test_each_task_has_a_folder_and_an_explanation_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[tuple[Path, object]] = []

    def build_demo(folder: Path, *, seed: int, sizes: LanguageDemo | ClassifierDemo) -> Iterator[DemoProgress]:
        built.append((folder, sizes))
        yield from STEPS

    monkeypatch.setattr("quail_audit.cli.audit.run_audit", lambda _request, **_: 1)
    monkeypatch.setattr("quail_train.demo.folder.build_demo", build_demo)
    said = {}
    for task in ("language", "classification"):
        assert cli.demo(task=task) == 1  # type: ignore[arg-type]
        said[task] = capsys.readouterr().out
    assert built == [
        (Path("quail-demo"), DEMOS["language modelling"]),
        (Path("quail-demo-classifier"), DEMOS["classification"]),
    ]
    assert "VerbMem" in said["language"]
    assert "quail demo --repair" in said["language"]
    assert "fake posts as real" in said["classification"]
    assert "quail demo --task classification --repair" in said["classification"]


def test_a_folder_of_something_else_is_refused_before_anything_heavy_is_done(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "quail_audit", "demo", os.fspath(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "something other than a demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_other_seeds_show_it_too(seed: int, tmp_path: Path) -> None:
    """Seed 0 is in test_demo_command.py."""
    done = subprocess.run(
        [sys.executable, "-m", "quail_audit", "demo", "demo", "--seed", str(seed), "--quiet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (run,) = (tmp_path / ".quail/runs").iterdir()
    report = json.loads((run / "report.json").read_text())
    measured = report["schemes"]["nf4"]
    assert measured["summary"]["overlap"] == 1.0
    assert measured["summary"]["survival"] == pytest.approx(0.0, abs=1e-6)
    assert [layer["state"] for layer in measured["layers"]] == 28 * ["erased"]

    def mean(metric: str, arm: str) -> float:
        return float(measured["metrics"][metric][arm]["mean"])

    for metric, known, forgotten in (("verbmem_forget", 90, 30), ("knowmem_forget", 70, 15)):
        assert mean(metric, "original/full") >= known
        assert mean(metric, "original/nf4") >= 0.9 * mean(metric, "original/full")
        assert mean(metric, "unlearned/full") <= forgotten
        assert mean(metric, "unlearned/nf4") == mean(metric, "original/nf4")
        assert mean(metric, "retrain/full") <= 0.5 * mean(metric, "original/full")
        assert measured["knowledge"][metric]["outcome"] == "comes back"
    for metric in ("verbmem_retain", "knowmem_retain"):
        for arm in ("original/nf4", "unlearned/full", "unlearned/nf4", "retrain/full"):
            assert mean(metric, arm) >= 0.9 * mean(metric, "original/full"), (metric, arm)
