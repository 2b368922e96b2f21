"""The story that every face of the app must tell: start on the demo pair, wait for the verdict, open the worst layer,
read the worst sample, export, quit. By keys alone, and told from what is on the screen."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

from quail_audit.runs.folder import read_report
from quail_audit.runs.names import RUNS_FOLDER
from quail_audit.schema.report import Report, badness

SOON_S = 20.0  # for anything that needs no measuring, on a machine that is busy
AUDIT_S = 120.0
MARK = "QUAIL_TEST_MARK"  # an environment variable that a whole family of processes inherits


class Face(Protocol):
    """Something that shows the app and takes keys: a terminal, a browser."""

    def press(self, *keys: str) -> None:
        """Keys by name: "enter", "escape", "tab", "ctrl+r", or a character."""

    def screen(self) -> str:
        """What is on the screen now, line by line."""


def wait_for(face: Face, text: str, within_s: float = SOON_S) -> str:
    """The screen, once this is on it."""
    deadline_s = time.monotonic() + within_s
    while text not in (screen := face.screen()):
        assert time.monotonic() < deadline_s, f"{text!r} is not on the screen after {within_s:.0f} s:\n{screen}"
        time.sleep(0.1)
    return screen


def wait_until_gone(face: Face, text: str, within_s: float = SOON_S) -> str:
    """The screen, once this is no longer on it."""
    deadline_s = time.monotonic() + within_s
    while text in (screen := face.screen()):
        assert time.monotonic() < deadline_s, f"{text!r} is on the screen after {within_s:.0f} s:\n{screen}"
        time.sleep(0.1)
    return screen


def wait_until(is_so: Callable[[], object], what: str, within_s: float = SOON_S) -> None:
    """Ask again and again; what cannot be told yet, for want of a file, is not so."""
    deadline_s = time.monotonic() + within_s
    while True:
        with suppress(OSError, ValueError):
            if is_so():
                return
        assert time.monotonic() < deadline_s, f"not after {within_s:.0f} s: {what}"
        time.sleep(0.1)


def start_the_audit(face: Face) -> None:
    """From the start screen, where the demo's pair is filled in."""
    wait_for(face, "✓ ready", 3 * SOON_S)
    face.press("ctrl+r")
    wait_for(face, "measuring")


def only_run(folder: Path) -> Path:
    """The run that was made there."""
    (run,) = (folder / RUNS_FOLDER).iterdir()
    return run


def tell(face: Face, folder: Path) -> Report:
    """The whole story, to the moment before quitting."""
    start_the_audit(face)
    wait_for(face, "✗ FAIL", AUDIT_S)
    report = read_report(only_run(folder))
    worst = min(report.schemes["nf4"].layers, key=badness)
    face.press("o")
    wait_for(face, "worst first")
    face.press("g", "enter")
    wait_until_gone(face, "worst first")
    screen = wait_for(face, worst.name)
    assert "erased" in screen
    face.press("escape")
    wait_for(face, "worst first")
    face.press("s")
    wait_until_gone(face, "worst first")
    screen = wait_for(face, " news: ")  # the prompt of the sample that came back most
    assert "came back" in screen
    assert "nf4" in screen
    face.press("escape")
    wait_for(face, "worst first")
    face.press("e")
    wait_for(face, "Enter writes it")
    face.press("tab", "enter")
    wait_for(face, "Wrote ")
    (exported,) = folder.glob("quail-*.txt")
    text = exported.read_text()
    assert "✗ FAIL" in text
    assert worst.name in text
    return report


def marked(mark: str) -> list[psutil.Process]:
    """Every process of this machine that inherited the mark, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def still_marked(mark: str, within_s: float = SOON_S) -> list[str]:
    """The command lines of those that have not ended by then."""
    deadline_s = time.monotonic() + within_s
    while (left := marked(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return [" ".join(process.cmdline()) for process in left if process.is_running()]


def measuring(mark: str) -> psutil.Process | None:
    """The process that measures, among those of the mark."""
    for process in marked(mark):
        try:
            if " -m quail_audit audit " in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None
