"""Run a backend in a process of its own, in a folder that is gone when this process is."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError
from quail_audit.core.untrusted import printable
from quail_audit.engine.schemes.backends.messages import MESSAGES, Done, Failed, Job, LayerStarted, RoundedToNearest

WORKER = "quail_audit.engine.schemes.backends.worker"
_TAIL_BYTES = 4_000  # of what a backend printed, to find its last words in


class Scratch:
    """A folder for what backends write, removed on leaving, or by a guard if this process no longer can.

    Both are made when the folder is first asked for.
    """

    def __init__(self) -> None:
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Scratch:
        return self

    @functools.cached_property
    def folder(self) -> Path:
        """The scratch folder."""
        folder = tempfile.mkdtemp(prefix="quail-")
        self._guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "quail_audit.engine.schemes.backends.guard", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        return Path(folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard is None:
            return
        assert self._guard.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):
            self._guard.stdin.close()
        self._guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # if the guard was killed

    def tell_guard(self, line: str) -> None:
        """See guard.py. A guard that is gone guards nothing; the work goes on."""
        assert self._guard is not None  # noqa: S101 - whoever works in the folder has asked for it
        assert self._guard.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):
            self._guard.stdin.write(line + "\n")
            self._guard.stdin.flush()


def run(job: Job, scratch: Scratch, where: str) -> Generator[LayerStarted | RoundedToNearest, None, None]:
    """Do a job, and yield which layer is being rounded.

    Args:
        job: the job, whose folder lies in scratch.
        scratch: the folder that the backend may write to.
        where: the checkpoint, for messages.

    Raises:
        BadInputError: a layer's Hessian cannot be used.
        EnvironmentProblemError: the backend failed or crashed; says at which layer.
    """
    backend = job.backend.rpartition(".")[2]
    work = Path(tempfile.mkdtemp(dir=scratch.folder))
    (work / "job.json").write_text(job.model_dump_json())
    reader, writer = os.pipe()
    with (work / "output").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(work / "job.json"), str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            pass_fds=(writer,),
            cwd=work,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        )
        os.close(writer)
        scratch.tell_guard(f"+{process.pid}")
        try:
            failed: Failed | None = None
            done, layer = False, ""
            with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    message = MESSAGES.validate_json(line)
                    match message:
                        case Failed():
                            failed = message
                        case Done():
                            done = True
                        case LayerStarted() | RoundedToNearest():
                            layer = message.name
                            yield message
            code = process.wait()
            if failed is not None:
                raise _failure(failed, backend, where)
            if code != 0 or not done:
                raise _crash(code, backend, layer, where, _last_line(output.fileno()))
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            scratch.tell_guard(f"-{process.pid}")


def _failure(failed: Failed, backend: str, where: str) -> QuailError:
    at = f" at {printable(failed.layer, limit=200)}" if failed.layer else ""
    message = printable(failed.message, limit=400)
    if failed.hessian:
        return BadInputError(
            f"{backend} cannot use the Hessian of the calibration texts{at}: {message}",
            where=where,
            mend="Give more or other text with --calibration FILE",
        )
    return EnvironmentProblemError(f"{backend} failed{at}: {message}", where=where)


def _crash(code: int, backend: str, layer: str, where: str, last_words: str) -> QuailError:
    at = f" at {printable(layer, limit=200)}" if layer else ""
    if code == -signal.SIGKILL:
        return EnvironmentProblemError(
            f"{backend} was killed{at}", where=where, mend="Most often memory ran out: use a machine with more memory"
        )
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = f": {printable(last_words, limit=300)}" if last_words else ""
    return EnvironmentProblemError(f"{backend} {how}{at}{said}", where=where)


def _last_line(output: int) -> str:
    size = os.fstat(output).st_size
    tail = os.pread(output, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace")
    return next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
