"""`quail serve` in a process of its own, for tests, and what is left of a process's family."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

END_S = 20.0  # a loaded machine is slow; a process that outlives this was left behind


class Served:
    """A server, and the address it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Quail is at http"), line + process.stderr.read()
        self.address = line.split()[-1]

    def apps(self) -> list[psutil.Process]:
        """Whatever it has started that still runs."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[Served]:
    """In a folder, with settings of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "quail_audit", "serve", "--port", "0", *arguments],
        cwd=folder,
        env=os.environ | {"QUAIL_CONFIG_DIR": str(folder / "config")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which nohup would have it ignore
    )
    family: list[psutil.Process] = []
    try:
        server = Served(process)
        yield server
        family = server.apps()
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        for one in (*family, process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


def still_alive(processes: list[psutil.Process], within_s: float = END_S) -> list[psutil.Process]:
    """Those that have not ended by then."""
    return psutil.wait_procs(processes, timeout=within_s)[1]
