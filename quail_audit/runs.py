"""A run's folder: request.json, events.jsonl and report.json; making one, recording into it, following it.

Every event is on disk before anybody else sees it, so a crash loses nothing that was measured. The writer holds a
lock for as long as it lives, so that no second audit writes here and a watcher can tell a slow run from a dead one.
Not here: what the events mean (report.py) or how they look (the faces).
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from quail_audit.clock import utc_now
from quail_audit.errors import BadInputError, EnvironmentProblemError, InterruptedRunError, QuailError
from quail_audit.events import AuditRequest, Event, RunFailed, from_line, to_line
from quail_audit.report import Report, RunState

REQUEST = "request.json"
EVENTS = "events.jsonl"
REPORT = "report.json"
LOCK = "writer.lock"
POLL_INTERVAL_S = 0.2


def new_run_id() -> str:
    """Sorts by time; unique where two start in the same second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@contextmanager
def new_run(folder: Path, request: AuditRequest) -> Iterator[Path]:
    """Make a run's folder and hold it as its only writer.

    Raises:
        BadInputError: the path is a file, or holds a run already.
        EnvironmentProblemError: the folder cannot be made or written, or another run is writing there.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInputError("the run's folder is a file", where=str(folder), mend="Name a folder with --run-dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise EnvironmentProblemError(
            "another run is writing to this folder", where=str(folder), mend="Wait for it, or name another --run-dir"
        ) from None
    except OSError as error:
        raise EnvironmentProblemError(
            f"cannot write the run's folder: {error.strerror or error}",
            where=str(folder),
            mend="Name a writable folder with --run-dir",
        ) from error
    try:
        if (folder / EVENTS).exists():
            raise BadInputError(
                "this folder holds a run already", where=str(folder), mend="Name a new folder with --run-dir"
            )
        _write_whole(folder / REQUEST, request.model_dump_json(indent=2) + "\n")
        yield folder
    finally:
        lock.release()
        with suppress(OSError):  # another writer may have it again, or the folder may be gone
            (folder / LOCK).unlink()


def record(events: Iterator[Event], folder: Path) -> Generator[Event, None, None]:
    """Pass a run's events on, each written and flushed to the folder first; at the end, write the report.

    An error of the run becomes its last event, then goes on its way; so does an interruption.
    """
    state = RunState()
    started_s = time.monotonic()
    with _open_events(folder) as descriptor:

        def write(event: Event) -> Event:
            stamped = event.model_copy(update={"at_s": round(time.monotonic() - started_s, 3)})
            _append_line(descriptor, to_line(stamped), folder / EVENTS)
            state.apply(stamped)
            return stamped

        try:
            for event in events:
                yield write(event)
        except GeneratorExit:  # whoever was reading stopped: Ctrl-C, or a closed pipe
            _write_end(write, _failure(InterruptedRunError("stopped before the end")))
            raise
        except BaseException as error:
            failed = _failure(error)
            _write_end(write, failed)
            yield failed
            raise
        finally:
            if state.started is not None:
                with suppress(QuailError):  # the disk is full: the events are there, and a report is a fold of them
                    _write_whole(folder / REPORT, state.report().model_dump_json(indent=2) + "\n")


def _write_end(write: Callable[[Event], Event], failed: RunFailed) -> None:
    with suppress(QuailError):  # the disk is full: the error on its way says so
        write(failed)


def _failure(error: BaseException) -> RunFailed:
    if isinstance(error, KeyboardInterrupt):
        error = InterruptedRunError("interrupted")
    if isinstance(error, QuailError):
        return RunFailed(
            finished=utc_now(),
            kind=error.kind,
            message=error.message,
            where=error.where,
            mend=error.mend,
            exit_code=error.exit_code,
        )
    return RunFailed(
        finished=utc_now(),
        kind="defect",
        message=f"{type(error).__name__}: {error}",
        mend="This is a defect of Quail; run again with --debug for a traceback",
        exit_code=EnvironmentProblemError.exit_code,
    )


@contextmanager
def _open_events(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    except OSError as error:
        raise _cannot_write(folder / EVENTS, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _append_line(descriptor: int, line: str, path: Path) -> None:
    """Append one line whole or not at all."""
    data = line.encode("utf-8", errors="backslashreplace") + b"\n"
    before = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        raise _cannot_write(path, error) from error


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> EnvironmentProblemError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblemError(
            "the disk is full", where=str(path), mend="Free some space, or name a folder on another disk with --run-dir"
        )
    return EnvironmentProblemError(f"cannot write: {error.strerror or error}", where=str(path))


def is_being_written(folder: Path) -> bool:
    """Whether a process on this machine (or, where the file system carries locks, another) is writing this run."""
    path = folder / LOCK
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # read-only for us: whether anybody writes cannot be told, so keep following
        return True
    lock.release()
    return False


def replay(folder: Path, *, follow: bool = False) -> Generator[Event, None, None]:
    """The events of a run, from the first; with follow, also those still to come, until the run or its writer ends.

    A last line without its newline is still being written, or was cut off by a crash, and is left out.

    Raises:
        BadInputError: the folder holds no run, or a line is no event.
    """
    path = folder / EVENTS
    if not path.is_file():
        raise BadInputError(
            "no run here: events.jsonl is missing",
            where=str(folder),
            mend="Name the folder that quail audit wrote, for example .quail/runs/20260101-120000-ab12",
        )
    try:
        with path.open("rb") as file:
            yield from _follow(file, folder, follow)
    except OSError as error:
        raise BadInputError(f"cannot read the run: {error.strerror or error}", where=str(path)) from error


def _follow(file: BinaryIO, folder: Path, follow: bool) -> Iterator[Event]:
    number = 0
    rest = b""
    while True:
        alive = follow and is_being_written(folder)  # asked before reading, so that the last events are not missed
        data = file.read()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            try:
                event = from_line(line.decode("utf-8", errors="replace"))
            except BadInputError as error:
                raise BadInputError(
                    error.message, where=f"{folder / EVENTS}, line {number}", mend=error.mend
                ) from error
            yield event
            if event.type in ("run_finished", "run_failed"):
                return
        if not alive and not data:
            return
        if not data:
            time.sleep(POLL_INTERVAL_S)


def read_report(folder: Path) -> Report:
    """The report of a run: folded from its events, so that a run that was killed has one too.

    Raises:
        BadInputError: the folder holds no run.
    """
    state = RunState()
    for event in replay(folder):
        state.apply(event)
    if state.started is None:
        raise BadInputError("the run has not started", where=str(folder))
    return state.report()
