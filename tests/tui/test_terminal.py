"""The app in a real terminal: tmux, 80 × 24, keys only."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quail_audit.runs.folder import read_report
from quail_audit.runs.names import EVENTS
from quail_audit.tui.live.leash import GRACE_S
from tests.support.demo_story import (
    AUDIT_S,
    MARK,
    measuring,
    only_run,
    start_the_audit,
    still_marked,
    tell,
    wait_for,
    wait_until,
    wait_until_gone,
)

pytestmark = pytest.mark.terminal
COLUMNS, ROWS = 80, 24
PROMPT = "ready>"


class Terminal:
    """A shell in a terminal of its own, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.mark = secrets.token_hex(8)
        (folder / "tmp").mkdir()
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TMPDIR": str(folder / "tmp"),
            "QUAIL_CONFIG_DIR": str(folder / "config"),
            "HF_HUB_OFFLINE": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "PS1": f"{PROMPT} ",
        }
        shell = ["env", *(f"{name}={value}" for name, value in environment.items()), "bash", "--norc"]
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        self._tmux("-f", os.devnull, "new-session", "-d", *size, "-c", str(folder), *shell)
        self.run(f"export {MARK}={self.mark}")  # so that the shell itself does not carry it

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-L", f"quail-{self.mark}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def press(self, *keys: str) -> None:
        names = {"enter": "Enter", "escape": "Escape", "tab": "Tab", "space": "Space"}
        for key in keys:
            self._tmux("send-keys", "--", names.get(key, key.replace("ctrl+", "C-")))

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def run(self, command: str) -> None:
        """Type a command at the shell's prompt."""
        wait_for(self, PROMPT)
        self._tmux("send-keys", "-l", command)
        self.press("enter")

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal(demo: Path, tmp_path: Path) -> Iterator[Terminal]:
    """In a folder that holds quail-demo."""
    if shutil.which("tmux") is None:
        pytest.fail("tmux is not installed; on Debian: apt-get install tmux")
    (tmp_path / "quail-demo").symlink_to(demo)
    opened = Terminal(tmp_path)
    yield opened
    opened.close()
    assert still_marked(opened.mark) == []


def wait_for_a_layer(folder: Path) -> None:
    """Until the run that was started there has measured one."""
    wait_until(lambda: "layer_measured" in (only_run(folder) / EVENTS).read_text(), "a layer is measured", AUDIT_S)


def test_the_demo_from_its_start_to_its_worst_sample(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("quail; echo it ended with $?")
    report = tell(terminal, tmp_path)
    assert report.verdict is not None
    assert report.verdict.outcome == "fail"
    terminal.press("q")
    screen = wait_for(terminal, "it ended with 0")
    assert "Traceback" not in screen
    assert still_marked(terminal.mark) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_quitting_while_it_measures_asks_and_then_ends_the_audit(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("quail; echo it ended with $?")
    start_the_audit(terminal)
    terminal.press("q")
    wait_for(terminal, "Stop and quit")
    terminal.press("n")
    wait_until_gone(terminal, "Stop and quit")
    assert measuring(terminal.mark) is not None
    terminal.press("q")
    wait_for(terminal, "Stop and quit")
    terminal.press("y")
    wait_for(terminal, "it ended with 0")
    assert still_marked(terminal.mark) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_audit_ends_with_an_app_that_was_killed(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("quail")
    start_the_audit(terminal)
    wait_for_a_layer(tmp_path)
    worker = measuring(terminal.mark)
    assert worker is not None
    _leash, app = worker.parents()[:2]
    app.kill()
    assert still_marked(terminal.mark, GRACE_S + 3.0) == []
    report = read_report(only_run(tmp_path))  # what was measured is kept, and its end is told
    assert report.verdict is None
    assert report.schemes["nf4"].layers
    assert report.failure is not None
    assert report.failure.kind == "interrupted"


def test_a_killed_audit_is_a_message_and_what_it_measured_stays(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("quail; echo it ended with $?")
    start_the_audit(terminal)
    wait_for_a_layer(tmp_path)
    worker = measuring(terminal.mark)
    assert worker is not None
    worker.kill()
    screen = wait_for(terminal, "STOPPED")
    assert "killed by SIGKILL (signal 9)" in " ".join(screen.split())
    wait_for(terminal, "erased")
    terminal.press("q")
    wait_for(terminal, "it ended with 0")
    assert still_marked(terminal.mark) == []
