"""A run's folder: request.json, events.jsonl and report.json; making one, going on with one, recording, following.

Every event is on disk before anybody else sees it, so a crash loses nothing that was measured. The writer holds a
lock for as long as it lives, so that no second audit writes here and a watcher can tell a slow run from a dead one.
Not here: what the events mean (report.py) or how they look (the faces).
"""

import hashlib
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from filelock import FileLock, Timeout
from pydantic import ValidationError

from quail_audit.core import interruption
from quail_audit.core.clock import utc_now
from quail_audit.core.errors import BadInputError, EnvironmentProblemError, InterruptedRunError, QuailError
from quail_audit.core.writing import (
    append_line,
    cannot_write,
    drop_unfinished_line,
    no_room,
    open_to_append,
    writable,
    write_whole,
)
from quail_audit.runs.digest import sealed
from quail_audit.runs.names import EVENTS as EVENTS
from quail_audit.runs.report_file import read_report_file
from quail_audit.runs.resume import Recorded
from quail_audit.runs.state.audit import RunState
from quail_audit.runs.state.cure import CureState
from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.audit import RunStarted, SchemeFailed
from quail_audit.schema.events.common import RunFailed, RunFinished
from quail_audit.schema.events.cures import CureStarted
from quail_audit.schema.events.lines import Event, from_line, to_line
from quail_audit.schema.events.training import TrainingStarted
from quail_audit.schema.report import CureReport, Report, TrainingReport
from quail_audit.schema.requests import (
    AttributeRequest,
    AuditRequest,
    CarryRequest,
    RecipeRequest,
    Request,
    TrainRequest,
)

AnyState = RunState | TrainingState | CureState  # the fold of a run of some kind

RUNS_FOLDER = Path(".quail") / "runs"  # where runs go that are not told where
REQUEST = "request.json"
REPORT = "report.json"
JOURNAL = "journal.jsonl"  # of an audit that is not finished: journal.py
LOCK = "writer.lock"
WRITER = "writer.id"
POLL_INTERVAL_S = 0.2
HEARTBEAT_INTERVAL_S = 5.0
SILENCE_S = 60.0
BYTES_PER_READ = 1 << 20
BYTES_PER_END = 1 << 16  # more than the last line of a run


def new_run_id() -> str:
    """Sorts by time; unique where two start in the same second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@contextmanager
def new_run(folder: Path, request: Request) -> Iterator[Path]:
    """Make a run's folder and hold it as its only writer.

    Raises:
        BadInputError: the path is a file, or holds a run already.
        EnvironmentProblemError: the folder cannot be made or written, or another run is writing there.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInputError("the run's folder is a file", where=str(folder), mend="Name a folder with --run-dir")
    with _held(folder, make=True):
        if (folder / EVENTS).exists():
            raise BadInputError(
                "this folder holds a run already", where=str(folder), mend="Name a new folder with --run-dir"
            )
        write_whole(folder / REQUEST, request.model_dump_json(indent=2) + "\n")
        yield folder


@dataclass(frozen=True)
class StoppedRun:
    """An audit that was stopped, and goes on.

    Attributes:
        folder: of the run.
        request: what was asked for.
        started: its first event; None: it was stopped before it said anything.
        recorded: what it said, without the end.
        ended: how it ended, of one that is finished and has nothing to go on with.
    """

    folder: Path
    request: AuditRequest
    started: RunStarted | None
    recorded: Recorded
    ended: RunFinished | None


@contextmanager
def stopped_run(folder: Path) -> Iterator[StoppedRun]:
    """Hold the folder of an audit that was stopped, as its only writer; what was half written is taken away.

    Raises:
        BadInputError: the folder holds no audit, or what it holds cannot be read.
        EnvironmentProblemError: the folder cannot be written, or its run still goes on.
    """
    request = read_request(folder)
    if not isinstance(request, AuditRequest):
        what = "no audit" if request is None else "no audit but another run"
        raise BadInputError(
            f"{what} here to go on with",
            where=str(folder),
            mend="Name the folder that quail audit wrote, for example .quail/runs/20260101-120000-ab12",
        )
    with _held(folder, make=False):
        for left in folder.glob(".*.unfinished"):  # by a writer that was killed
            left.unlink()
        ended = None
        if (folder / EVENTS).exists():
            drop_unfinished_line(folder / EVENTS)
            ended = _drop_failure(folder / EVENTS)
            if ended is not None and not (folder / REPORT).exists():  # it was the last write, and failed
                write_whole(folder / REPORT, _written(read_report(folder)))
        else:
            (folder / EVENTS).touch()
        with closing(replay(folder)) as found:
            first = next(found, None)
            if first is not None and not isinstance(first, RunStarted):
                raise BadInputError("the run does not begin as an audit does", where=str(folder / EVENTS))
            recorded = Recorded(found if first is None else chain((first,), found))
            yield StoppedRun(folder, request, first, recorded, ended)


def _drop_failure(path: Path) -> RunFinished | None:
    """Take away the event that says how a run failed; where it says that it was finished, return that."""
    with writable(path), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - BYTES_PER_END))
        lines = file.read().splitlines(keepends=True)
        end = _last_event(lines)
        while isinstance(end, RunFailed | SchemeFailed):  # of the last scheme, or the journal says it again
            size -= len(lines.pop())
            file.truncate(size)
            end = _last_event(lines)
        return end if isinstance(end, RunFinished) else None


def _last_event(lines: list[bytes]) -> Event | None:
    """That of the last line; None: of a long one there is only the end, which says no end; else replay() refuses it."""
    with suppress(BadInputError, IndexError):
        return from_line(lines[-1].decode("utf-8", errors="replace"))
    return None


@contextmanager
def _held(folder: Path, *, make: bool) -> Iterator[None]:
    """Be a folder's only writer.

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
            "another run is writing to this folder", where=str(folder), mend="Wait for it, or name another --run-dir"
        ) from None
    except OSError as error:
        raise cannot_write(folder, error, option="--run-dir") from error
    try:
        with _heartbeat(folder):
            yield
    finally:
        lock.release()
        with suppress(OSError):  # another writer may have it again, or the folder may be gone
            (folder / LOCK).unlink()


def record(events: Iterator[Event], folder: Path, recorded: Recorded | None = None) -> Generator[Event, None, None]:
    """Pass a run's events on, each written and flushed to the folder first; at the end, write the report.

    An error of the run becomes its last event, then goes on its way; so does an interruption.

    Args:
        events: of the run, from its first.
        folder: the run's, held as its only writer.
        recorded: of a run that goes on, what it said before: that is passed on as it stands, and not written again.

    Raises:
        EnvironmentProblemError: something cannot be written, as on a full disk. What was written before stands.
    """
    state: AnyState = RunState()
    before = Recorded(iter(())) if recorded is None else recorded
    started_s = time.monotonic()
    with open_to_append(folder / EVENTS, new=recorded is None) as descriptor:

        def fold(event: Event) -> Event:
            nonlocal state
            state = state_for(event, state)
            state.apply(event)
            return event

        def write(event: Event) -> Event:
            at_s = round(before.at_s + time.monotonic() - started_s, 3)
            stamped = event.model_copy(update={"at_s": at_s})
            append_line(descriptor, to_line(stamped), folder / EVENTS)
            return fold(stamped)

        def write_report() -> None:
            if state.started is not None:
                write_whole(folder / REPORT, _written(state.report()))

        def write_end(failed: RunFailed) -> None:
            for known in before.rest():
                fold(known)
            with suppress(QuailError):  # the disk is full: the error on its way says so
                write(failed)
            with suppress(QuailError):  # the events are there, and a report is a fold of them
                write_report()

        try:
            for event in events:
                for known in before.until(event):
                    yield fold(known)
                if before.is_over:
                    yield write(event)
                if interruption.was_asked():  # and the exception was swallowed on its way
                    raise KeyboardInterrupt
        except GeneratorExit:  # whoever was reading stopped: Ctrl-C, or a closed pipe
            write_end(_failure(InterruptedRunError("stopped before the end")))
            raise
        except BaseException as error:
            failed = _failure(error)
            write_end(failed)
            yield failed
            raise
        write_report()


def _written(report: Report | TrainingReport | CureReport) -> str:
    return (sealed(report) if isinstance(report, Report) else report).model_dump_json(indent=2) + "\n"


def _failure(error: BaseException) -> RunFailed:
    if isinstance(error, KeyboardInterrupt) or interruption.was_asked():
        error = InterruptedRunError("interrupted")
    error = no_room(error) or error
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


class Writer:
    """Whether a run's folder is being written, asked again and again by one that follows it.

    On the writer's own machine its lock tells. Another machine may not see that lock on a shared file system, so there
    its heartbeat does: it counts as gone when that has stood still for SILENCE_S by this machine's own clock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heartbeat: float | None = None
        self._seen_s = time.monotonic()

    def is_alive(self) -> bool:
        """Ask once."""
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
    except OSError:  # read-only for us: whether anybody writes cannot be told, so keep following
        return True
    lock.release()
    return False


def _this_machine() -> str:
    """Tells machines apart without naming them."""
    return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()}".encode()).hexdigest()


@contextmanager
def _heartbeat(folder: Path) -> Iterator[None]:
    """Say whose run this is and, from a thread of its own, that its writer still lives."""
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


class Placed(NamedTuple):
    """An event, and where its line begins in events.jsonl, in bytes: read_event finds it there again."""

    event: Event
    offset: int


def replay(folder: Path, *, follow: bool = False) -> Generator[Event, None, None]:
    """The events of a run, as replay_placed, without their places."""
    with closing(replay_placed(folder, follow=follow)) as events:
        for placed in events:
            yield placed.event


def require_run(folder: Path) -> Path:
    """The events file of a run's folder.

    Raises:
        BadInputError: there is none.
    """
    path = folder / EVENTS
    if not path.is_file():
        raise BadInputError(
            "no run here: events.jsonl is missing",
            where=str(folder),
            mend="Name the folder that quail audit wrote, for example .quail/runs/20260101-120000-ab12",
        )
    return path


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def replay_placed(
    folder: Path, *, follow: bool = False, wait: Callable[[float], bool] = _sleep
) -> Generator[Placed, None, None]:
    """The events of a run, from the first; with follow, also those still to come, until the run or its writer ends.

    A last line without its newline is still being written, or was cut off by a crash, and is left out.

    Args:
        folder: the run's.
        follow: see above.
        wait: called with seconds where there is nothing new; where it returns True, following ends.

    Raises:
        BadInputError: the folder holds no run, or a line is no event.
    """
    path = require_run(folder)
    try:
        with path.open("rb") as file:
            yield from _follow(file, folder, follow, wait)
    except OSError as error:
        raise BadInputError(f"cannot read the run: {error.strerror or error}", where=str(path)) from error


def _follow(file: BinaryIO, folder: Path, follow: bool, wait: Callable[[float], bool]) -> Iterator[Placed]:
    writer = Writer(folder)
    number, offset = 0, 0
    rest = b""
    while True:
        alive = follow and writer.is_alive()  # asked before reading, so that the last events are not missed
        data = file.read(BYTES_PER_READ)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            event = _event_of(line, f"{folder / EVENTS}, line {number}")
            yield Placed(event, offset)
            if isinstance(event, RunFinished | RunFailed):
                return
            offset += len(line) + 1
        if not alive and not data:
            return
        if not data and wait(POLL_INTERVAL_S):
            return


def _event_of(line: bytes, where: str) -> Event:
    try:
        return from_line(line.decode("utf-8", errors="replace"))
    except BadInputError as error:
        raise BadInputError(error.message, where=where, mend=error.mend) from error


def read_events(folder: Path, offsets: Iterable[int]) -> list[Event]:
    """Events of a run by their places, as replay_placed gave them.

    Raises:
        BadInputError: the file cannot be read, or has changed since.
    """
    path = folder / EVENTS
    try:
        with path.open("rb") as file:
            found = []
            for offset in offsets:
                file.seek(offset)
                found.append(_event_of(file.readline().rstrip(b"\n"), f"{path}, byte {offset}"))
            return found
    except OSError as error:
        raise BadInputError(f"cannot read the run: {error.strerror or error}", where=str(path)) from error


def read_request(folder: Path) -> Request | None:
    """What a run was asked for, which tells what kind of run it is; None where that cannot be read."""
    try:
        document = (folder / REQUEST).read_bytes()
    except OSError:
        return None
    for kind in (AuditRequest, TrainRequest, CarryRequest, AttributeRequest, RecipeRequest):
        with suppress(ValidationError):
            return kind.model_validate_json(document)
    return None


@dataclass(frozen=True)
class RunSummary:
    """A run as a list of runs shows it.

    Attributes:
        folder: of the run.
        request: what was asked for.
        exit_code: None while it goes on, and of a run that was killed.
        has_verdict: whether it came to its end. Its exit code is then the verdict's, or that of a scheme that could not
            be measured.
        written_s: when its events were last written, in seconds since the epoch.
    """

    folder: Path
    request: AuditRequest
    exit_code: int | None
    has_verdict: bool
    written_s: float


def list_runs(folder: Path, *, limit: int) -> list[RunSummary]:
    """The audits under a folder, the last written first. What is no audit, or cannot be read, is passed over."""
    try:
        runs = sorted(folder.glob(f"*/{EVENTS}"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []
    found = (summarize_run(run.parent) for run in runs)
    return list(islice((summary for summary in found if summary is not None), limit))


def summarize_run(folder: Path) -> RunSummary | None:
    """What a list shows of one run; None where it is no audit that can be read. Reads the ends of its files only."""
    request = read_request(folder)
    if not isinstance(request, AuditRequest):
        return None
    try:
        with (folder / EVENTS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - BYTES_PER_END))
            *_, last = (b"", *file.read().splitlines())
        end = from_line(last.decode("utf-8", errors="replace"))
    except OSError:
        return None
    except BadInputError:  # cut off in the middle of a line
        end = None
    code = end.exit_code if isinstance(end, RunFinished | RunFailed) else None
    return RunSummary(folder, request, code, isinstance(end, RunFinished), (folder / EVENTS).stat().st_mtime)


def state_for(event: Event, state: AnyState) -> AnyState:
    """The fold that takes this event: a run's first event tells what kind of run it is."""
    match event:
        case TrainingStarted():
            return TrainingState()
        case CureStarted():
            return CureState()
    return state


def read_report(folder: Path) -> Report:
    """The report of an audit: folded from its events, so that a run that was killed has one too.

    Args:
        folder: the run's; or a report.json that stands alone.

    Raises:
        BadInputError: the folder holds no run, or that of a training; the file is no report.
    """
    if folder.is_file():
        return read_report_file(folder)
    state = RunState()
    for event in replay(folder):
        if isinstance(event, TrainingStarted):
            raise BadInputError(
                "this is the run of a training, not of an audit",
                where=str(folder),
                mend="Name the folder of an audit's run; that of the training's own audit is in it, as audit",
            )
        if isinstance(event, CureStarted):
            raise BadInputError(
                f"this is the run of quail {event.request.cure}, not of an audit",
                where=str(folder),
                mend="Name the folder of an audit's run",
            )
        state.apply(event)
    if state.started is None:
        raise BadInputError("the run has not started", where=str(folder))
    return sealed(state.report())
