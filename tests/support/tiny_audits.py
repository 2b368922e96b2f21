"""Request audits of the tiny world, start them, let them fail, and read what they recorded."""

import importlib
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quail_audit.runs.folder import read_report
from quail_audit.runs.names import EVENTS, REPORT
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import FilesAwaited
from quail_audit.schema.events.lines import Event, from_line
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from tests.support.quail_command import QUAIL


def request(world: Path, unlearned: str = "blank", **changes: object) -> AuditRequest:
    values: dict[str, object] = {"original": str(world / "original"), "unlearned": str(world / unlearned)}
    return AuditRequest.model_validate(values | {"data": str(world / "data"), "device": "cpu"} | changes)


def state_of(events: Iterator[Event]) -> AuditState:
    state = AuditState()
    for event in events:
        state.apply(event)
    return state


def let_scheme_fail(scheme: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function of Quail fail where it is called for this scheme, as a scheme's library may."""
    real = getattr(importlib.import_module(module), function)

    def wrapped(*arguments: object, **named: object) -> object:
        if any(getattr(argument, "name", None) == scheme for argument in arguments):
            raise RuntimeError("a singular Hessian")
        return real(*arguments, **named)

    monkeypatch.setattr(f"{module}.{function}", wrapped)


def start_audit(world: Path, folder: Path) -> "subprocess.Popen[str]":
    """An audit in a process of its own, which has begun to score samples."""
    command = [*QUAIL, "audit", world / "original", world / "blank", "--data", world / "data", "--run-dir", folder]
    process = subprocess.Popen(
        [*map(str, command), "--batch-size", "1", "--format", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # a shell starts what it runs in the background with Ctrl-C ignored, and that is inherited
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if from_line(line).type == "sample_scored":
            break
    return process


TIMES = {
    "at_s",
    "started",
    "finished",
    "elapsed_s",
    "run_id",  # of a run that was killed before it had said it
    "digest",  # which is of the others too
}


def without_times(value: Any) -> Any:
    """A JSON document without its times."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def lines_of(folder: Path) -> list[Any]:
    """Its events but for times, and for how far the hashing of files was when all else was done."""
    events = map(from_line, (folder / EVENTS).read_text().splitlines())
    return [without_times(event.model_dump(mode="json")) for event in events if not isinstance(event, FilesAwaited)]


def report_in(folder: Path) -> Any:
    report = Report.model_validate_json((folder / REPORT).read_text())
    assert report == read_report(folder)
    return without_times(report.model_dump(mode="json"))
