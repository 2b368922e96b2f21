"""Keep a run's folder to one writer, and show that it is alive."""

import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.writing import write_error
from quail_audit.runs.names import LOCK, WRITER

HEARTBEAT_INTERVAL_S = 5.0


SILENCE_S = 60.0


@contextmanager
def hold_lock(folder: Path, *, make: bool) -> Iterator[None]:
    """Hold a folder as its only writer.

    Raises:
        EnvironmentProblemError: the folder cannot be made or written, or another run is writing there.
    """
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise EnvironmentProblemError(
            "another run is writing to this folder", where=str(folder), mend="Wait for it, or choose another --run-dir"
        ) from None
    except OSError as error:
        raise write_error(folder, error, option="--run-dir") from error
    try:
        with _heartbeat(folder):
            yield
    finally:
        lock.release()
        with suppress(OSError):  # another writer may hold it, or the folder may be gone
            (folder / LOCK).unlink()


class Writer:
    """Tells a follower, again and again, if a run's folder is being written.

    On the writer's own machine the lock tells. Another machine may not see the lock on a shared file system, so there
    the heartbeat tells: the writer counts as gone if it stood still for SILENCE_S by this machine's own clock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heartbeat: float | None = None
        self._seen_s = time.monotonic()

    def is_alive(self) -> bool:
        """Return whether the writer is alive now."""
        path = self._folder / LOCK
        try:
            heartbeat, writer = path.stat().st_mtime, (self._folder / WRITER).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            heartbeat, writer = 0.0, ""
        if not path.exists():
            return False
        if writer in ("", _this_machine()):
            return _is_locked(path)
        if heartbeat != self._heartbeat:
            self._heartbeat, self._seen_s = heartbeat, time.monotonic()
        return time.monotonic() - self._seen_s < SILENCE_S


def _is_locked(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # read-only for us: nobody can tell if it is being written, so keep following
        return True
    lock.release()
    return False


def _this_machine() -> str:
    """Return what tells this machine from others without naming it."""
    return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()}".encode()).hexdigest()


@contextmanager
def _heartbeat(folder: Path) -> Iterator[None]:
    """Write whose run this is and, from a thread, that its writer is alive."""
    with suppress(OSError):
        (folder / WRITER).write_text(_this_machine(), encoding="ascii")
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_INTERVAL_S):
            with suppress(OSError):
                os.utime(folder / LOCK)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        with suppress(OSError):
            (folder / WRITER).unlink()
