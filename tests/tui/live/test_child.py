"""The app's processes: they end when asked, when the app lets go, and when the app is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from quail_audit.tui.live.child import Child, how_it_ended

PATIENCE_S = 30.0

# A command `sleep` of a package that is installed for the test: says so, has a child of its own, and waits.
PLUG_IN = """
    import signal, subprocess, sys, time
    from pathlib import Path

    def sleep(folder: Path, stubborn: bool = False) -> int:
        '''Wait.'''
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("not for the screen")
        print("said \\x1b[31m on stderr", file=sys.stderr, flush=True)
        try:
            (folder / "pids").write_text(str(other.pid))
            time.sleep(600)
        except KeyboardInterrupt:
            (folder / "kept").write_text("what was measured")
            raise
        return 0
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    packages = tmp_path / "packages"
    information = packages / "sleeper-1.0.dist-info"
    information.mkdir(parents=True)
    (packages / "sleeper.py").write_text(textwrap.dedent(PLUG_IN))
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[quail.commands]\nsleep = sleeper:sleep\n")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    return tmp_path


@pytest.fixture
def sleeping(plug_in: Path) -> Iterator[Child]:
    child = Child(["sleep", str(plug_in)])
    until((plug_in / "pids").exists)
    yield child
    child.close()


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def other_of(folder: Path) -> int:
    until(lambda: (folder / "pids").read_text() != "")
    return int((folder / "pids").read_text())


def test_it_runs_in_a_group_of_its_own_with_memory_and_errors_to_show(sleeping: Child, plug_in: Path) -> None:
    assert sleeping.exit_code is None
    assert os.getpgid(other_of(plug_in)) != os.getpgid(0)
    assert sleeping.memory_bytes is not None
    assert sleeping.memory_bytes > 10_000_000
    until(lambda: "on stderr" in sleeping.errors())
    assert "not for the screen" not in sleeping.errors()


def test_an_interrupted_command_keeps_what_it_has(sleeping: Child, plug_in: Path) -> None:
    sleeping.interrupt()
    until(lambda: sleeping.exit_code is not None)
    assert sleeping.exit_code == 130
    assert (plug_in / "kept").exists()


def test_closing_leaves_nothing_of_the_group(sleeping: Child, plug_in: Path) -> None:
    other = other_of(plug_in)
    sleeping.close()
    sleeping.close()
    assert sleeping.exit_code == 130
    assert is_gone(other)
    assert sleeping.errors() == ""
    assert sleeping.memory_bytes is None


def test_a_command_that_does_not_listen_is_killed(plug_in: Path) -> None:
    child = Child(["sleep", str(plug_in), "--stubborn"])
    other = other_of_when_there(plug_in)
    child.close()
    assert child.exit_code == -signal.SIGKILL
    assert is_gone(other)


def other_of_when_there(folder: Path) -> int:
    until((folder / "pids").exists)
    return other_of(folder)


def test_a_command_ends_with_the_app_that_was_killed(plug_in: Path) -> None:
    script = f"""
        import time
        from quail_audit.tui.live.child import Child
        child = Child(["sleep", {str(plug_in)!r}])
        print(child._process.pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        pid = int(app.stdout.readline())
        other = other_of_when_there(plug_in)
        app.send_signal(signal.SIGKILL)
    until(lambda: is_gone(pid) and is_gone(other))
    assert (plug_in / "kept").exists()


def test_a_killed_command_is_told_by_its_signal(sleeping: Child, plug_in: Path) -> None:
    (command,) = psutil.Process(sleeping._process.pid).children()
    command.kill()
    until(lambda: sleeping.exit_code is not None)
    assert sleeping.exit_code == -signal.SIGKILL
    until(lambda: is_gone(other_of(plug_in)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_a_command_ends_with_a_leash_that_was_killed(sleeping: Child, plug_in: Path) -> None:
    leash = psutil.Process(sleeping._process.pid)
    (command,) = leash.children()
    leash.kill()
    until(lambda: is_gone(command.pid))
    assert (plug_in / "kept").exists()


def test_a_file_in_the_working_folder_is_not_taken_for_a_library(
    plug_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plug_in / "here").mkdir()
    (plug_in / "here" / "typer.py").write_text(f"open({str(plug_in / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(plug_in / "here")
    child = Child(["schemes"])
    until(lambda: child.exit_code is not None)
    assert child.exit_code == 0
    assert not (plug_in / "ran").exists()
    child.close()


def test_how_a_process_ended_is_said_in_words() -> None:
    assert how_it_ended(4) == "exit code 4"
    assert how_it_ended(-9) == "killed by SIGKILL (signal 9)"
    assert how_it_ended(-99) == "killed by a signal (signal 99)"
