import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from quail_audit.cli import main as cli
from quail_audit.runs.folder import new_run
from quail_audit.runs.names import EVENTS
from quail_audit.runs.record import record
from quail_audit.schema.events.lines import from_line
from quail_audit.schema.report import Report
from tests.support.made_trainings import install_commands
from tests.support.quail_command import QUAIL, quail, quail_here
from tests.support.small_run import REQUEST, events


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    with new_run(tmp_path / "run", REQUEST) as folder:
        list(record(events(), folder))
    return folder


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = quail("--help")
    assert done.returncode == 0
    for word in ("audit", "watch", "schemes", "doctor", "demo", "130 interrupted"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["audit", "watch"])
def test_help_has_examples(command: str) -> None:
    assert "Examples:" in quail(command, "--help").stdout


def test_plug_ins_are_commands_but_none_takes_the_place_of_quails_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plug-in is a function, or what @command makes of one; a broken one says so when it is called."""
    install_commands(
        tmp_path,
        monkeypatch,
        report="tests.support.slow_commands:train",
        plain="tests.support.made_cures:attribute",
        demo="quail_train.cli.demo:demo",
        broken="no_such_package:run",
    )
    shown = quail("--help").stdout
    for words in (
        "plain",
        "the events of an attribution",
        "Build a small model",
        "Not usable here",
        "Write the report",
    ):
        assert words in shown
    done = quail("broken")
    assert (done.returncode, "the command broken failed to load" in done.stderr) == (4, True)


def test_the_version() -> None:
    assert re.fullmatch(r"quail \d+\.\d+\.\d+\n", quail("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit",),
        ("audit", "a", "b", "--no-such-option"),
        ("audit", "a", "b", "--format", "papyrus"),
        ("audit", "a", "b", "--max-samples", "0"),
        ("audit", "a", "b", "--batch-size", "many"),
        ("audit", "a", "b", "--retrain-auc", "1.5"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_2(arguments: Sequence[str], tmp_path: Path) -> None:
    done = quail(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--scheme", "--metric"])
def test_what_can_be_no_name_is_said_with_its_option(option: str) -> None:
    done = quail_here("audit", "a", "b", option, "[red]x")
    assert (done.exit_code, f"error: {option}:" in done.stderr) == (2, True)


def test_a_missing_checkpoint_is_exit_3_and_no_traceback(tmp_path: Path) -> None:
    done = quail("audit", "./nothing", "./here", "--format", "json", cwd=tmp_path)
    assert done.returncode == 3
    assert "error:" in done.stderr
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "")  # so that what the option sets is taken back
    assert "Traceback" in quail_here("--debug", "audit", "./nothing", "./here").stderr


def test_an_output_that_cannot_be_written_costs_no_measuring(tmp_path: Path) -> None:
    done = quail("audit", "./nothing", "./here", "--output", tmp_path / "no" / "such" / "folder.json", cwd=tmp_path)
    assert done.returncode == 4
    assert "folder.json" in done.stderr
    assert not (tmp_path / ".quail").exists()


def test_watch_replays_a_run_and_exits_as_it_did(run_folder: Path) -> None:
    done = quail("watch", run_folder)
    assert done.returncode == 1
    assert "✗ FAIL" in done.stdout
    assert "verdict: fail" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr, "colour and live bars only on a terminal"


def test_watch_as_json_lines(run_folder: Path) -> None:
    done = quail("watch", run_folder, "--format", "jsonl", "--quiet")
    assert [from_line(line) for line in done.stdout.splitlines()][-1].type == "run_finished"
    assert done.stderr == ""


def test_watch_as_json(run_folder: Path) -> None:
    report = Report.model_validate(json.loads(quail("watch", run_folder, "--format", "json").stdout))
    assert report.verdict is not None
    assert report.verdict.outcome == "fail"


def test_watch_of_a_killed_run_shows_what_was_measured(run_folder: Path) -> None:
    path = run_folder / EVENTS
    kept = [
        line
        for line in path.read_text().splitlines()
        if '"verdict_reached"' not in line and '"run_finished"' not in line
    ]
    path.write_text("\n".join(kept) + "\n")
    done = quail("watch", run_folder)
    assert done.returncode == 4
    assert "94.0" in done.stdout
    assert "was killed" in done.stderr


def test_watch_of_no_run_is_exit_3(tmp_path: Path) -> None:
    assert quail("watch", tmp_path).returncode == 3


def test_a_closed_pipe_is_no_crash(run_folder: Path) -> None:
    command = " ".join([*QUAIL, "watch", str(run_folder), "--format", "jsonl", "--quiet"])
    done = subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert from_line(done.stdout).type == "run_started"
    assert done.stderr == ""


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_result_that_nobody_reads_is_no_verdict(run_folder: Path, format: str) -> None:  # noqa: A002
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*QUAIL, "report", run_folder, "--format", format], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 130
    assert done.stderr == b""


def test_a_plain_locale_is_enough(run_folder: Path) -> None:
    done = quail("watch", run_folder, LANG="C", LC_ALL="C")
    assert done.returncode == 1
    assert "FAIL" in done.stdout


def test_doctor_finds_this_machine_ready() -> None:
    done = quail("doctor")
    assert done.returncode == 0
    for name in ("torch", "bitsandbytes", "numba", "cpu", "Ready"):
        assert name in done.stdout
