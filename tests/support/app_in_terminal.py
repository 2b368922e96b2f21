"""The app in a pseudo-terminal: starting it, sending keys, and waiting for what it draws."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 60.0


class Terminal:
    """What a person has: keys in, and the bytes that are drawn."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def wait_for(self, text: str) -> float:
        """Read until this text has been drawn; when that was, by time.perf_counter."""
        seen, wanted = b"", text.encode()
        deadline_s = time.perf_counter() + LIMIT_S
        while wanted not in seen:
            left_s = deadline_s - time.perf_counter()
            if left_s <= 0 or not select.select([self._descriptor], [], [], left_s)[0]:
                raise TimeoutError(f"{text!r} was not drawn in {LIMIT_S:.0f} s; the last was {seen[-400:]!r}")
            seen += os.read(self._descriptor, 1 << 16)
        return time.perf_counter()

    def drain(self, quiet_s: float) -> None:
        """Read until nothing has been drawn for so long, or for five seconds of ceaseless drawing."""
        deadline_s = time.perf_counter() + 5.0
        while time.perf_counter() < deadline_s and select.select([self._descriptor], [], [], quiet_s)[0]:
            os.read(self._descriptor, 1 << 16)


@contextmanager
def app_in_terminal(folder: Path, *arguments: str, columns: int = 120, lines: int = 40) -> Iterator[Terminal]:
    """`quail` with these arguments in a terminal of its own; killed at the end."""
    with python_in_terminal(folder, "-m", "quail_audit", *arguments, columns=columns, lines=lines) as terminal:
        yield terminal


@contextmanager
def python_in_terminal(folder: Path, *arguments: str, columns: int = 120, lines: int = 40) -> Iterator[Terminal]:
    """Python with these arguments in a terminal of its own; killed at the end."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "QUAIL_CONFIG_DIR": str(folder / "config")}
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
    try:
        yield Terminal(descriptor)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(descriptor)
