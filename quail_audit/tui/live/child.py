"""Start and stop a `quail` command in its own process.

Its results are in its run folder; this module knows if it lives, how it ended and what it wrote to standard error.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

import psutil

from quail_audit.tui.live.leash import GRACE_S

PATIENCE_S = 5.0  # beyond the grace that the leash gives, before it is killed itself
MEMORY_INTERVAL_S = 1.0
TAIL_BYTES = 8_000  # of standard error, for a message; the log view shows no more either


class Child:
    """A running command. It ends with the app, however the app ends (leash.py).

    Args:
        arguments: for `quail`: ["audit", "original", "unlearned", …].
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        self._memory: tuple[float, int | None] = (-math.inf, None)  # when it was looked at, and what it was
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "quail_audit.tui.live.leash", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
        )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal killed it, as in subprocess."""
        return self._process.poll()

    @property
    def memory_bytes(self) -> int | None:
        """Resident memory of the process and its children, at most a second old; None if unknown."""
        if self.exit_code is not None:
            return None
        now_s = time.monotonic()
        if now_s - self._memory[0] >= MEMORY_INTERVAL_S:
            self._memory = (now_s, self._measure_memory())
        return self._memory[1]

    def _measure_memory(self) -> int | None:
        """Find the children among all processes of the machine: too slow for each drawing."""
        try:
            process = psutil.Process(self._process.pid)
            return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
        except psutil.Error:
            return None

    def errors(self) -> str:
        """Return the end of what it wrote to standard error."""
        if self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")

    def interrupt(self) -> None:
        """Ask it to stop and keep what it has, as Ctrl-C does."""
        if self.exit_code is None:
            self._process.terminate()

    def close(self) -> None:
        """End it, by force if it does not answer in time, and free what it holds. May be called again."""
        if self._stderr.closed:
            return
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # the leash does the rest
        try:
            self._process.wait(GRACE_S + PATIENCE_S)
        except subprocess.TimeoutExpired:
            _kill_tree(self._process.pid)
            self._process.wait()
        self._stderr.close()


def _kill_tree(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        leash = psutil.Process(pid)
        for process in (*leash.children(recursive=True), leash):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def how_it_ended(exit_code: int) -> str:
    """Return an exit code in words: "exit code 4", "killed by SIGKILL (signal 9)"."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "a signal"
    return f"killed by {name} (signal {-exit_code})"
