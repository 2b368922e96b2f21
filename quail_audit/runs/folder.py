"""Make, list, resume and read a run's folder: request.json, events.jsonl and report.json.

Every event is on disk before anybody else sees it, so a crash loses nothing that was measured. The writer holds a
lock while it lives, so no second audit writes there, and a watcher can tell a slow run from a dead one.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from pydantic import ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.core.writing import drop_unfinished_line, explain_write_errors, write_whole
from quail_audit.runs.digest import add_digest
from quail_audit.runs.follow import replay
from quail_audit.runs.names import EVENTS, REPORT, REQUEST
from quail_audit.runs.record import report_text
from quail_audit.runs.report_file import read_report_file
from quail_audit.runs.resume import RecordedEvents
from quail_audit.runs.state.audit import AuditState
from quail_audit.runs.writer import hold_lock
from quail_audit.schema.events.audit import RunStarted, SchemeFailed
from quail_audit.schema.events.common import RunFailed, RunFinished
from quail_audit.schema.events.cures import CureStarted
from quail_audit.schema.events.lines import Event, from_line
from quail_audit.schema.events.training import TrainingStarted
from quail_audit.schema.report import Report
from quail_audit.schema.requests import (
    AttributeRequest,
    AuditRequest,
    CarryRequest,
    RecipeRequest,
    Request,
    TrainRequest,
)

BYTES_PER_END = 1 << 16  # more than the last line of a run


@contextmanager
def new_run(folder: Path, request: Request) -> Iterator[Path]:
    """Make a run's folder and hold it as its only writer.

    Raises:
        BadInputError: the path is a file, or holds a run already.
        EnvironmentProblemError: the folder cannot be made or written, or another run is writing there.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInputError("the run's folder is a file", where=str(folder), mend="Choose a folder with --run-dir")
    with hold_lock(folder, make=True):
        if (folder / EVENTS).exists():
            raise BadInputError(
                "this folder already holds a run", where=str(folder), mend="Choose a new folder with --run-dir"
            )
        write_whole(folder / REQUEST, request.model_dump_json(indent=2) + "\n")
        yield folder


@dataclass(frozen=True)
class StoppedRun:
    """An audit that was stopped and is being resumed.

    Attributes:
        folder: the run's.
        request: what was asked for.
        started: its first event; None if it has no events.
        recorded: its events, without the end.
        ended: its last event if the run had finished, so there is nothing to resume.
    """

    folder: Path
    request: AuditRequest
    started: RunStarted | None
    recorded: RecordedEvents
    ended: RunFinished | None


@contextmanager
def hold_stopped_run(folder: Path) -> Iterator[StoppedRun]:
    """Hold a stopped audit's folder as its only writer; remove what is half written.

    Raises:
        BadInputError: the folder holds no audit, or what it holds cannot be read.
        EnvironmentProblemError: the folder cannot be written, or its run is still going.
    """
    request = read_request(folder)
    if not isinstance(request, AuditRequest):
        what = "there is no audit" if request is None else "there is another kind of run"
        raise BadInputError(
            f"{what} here, so nothing can be resumed",
            where=str(folder),
            mend="Give the folder that quail audit wrote, for example .quail/runs/20260101-120000-ab12",
        )
    with hold_lock(folder, make=False):
        for left in folder.glob(".*.unfinished"):  # by a writer that was killed
            left.unlink()
        ended = None
        if (folder / EVENTS).exists():
            drop_unfinished_line(folder / EVENTS)
            ended = _drop_failure(folder / EVENTS)
            if ended is not None and not (folder / REPORT).exists():  # it was the last write, and failed
                write_whole(folder / REPORT, report_text(read_report(folder)))
        else:
            (folder / EVENTS).touch()
        with closing(replay(folder)) as found:
            first = next(found, None)
            if first is not None and not isinstance(first, RunStarted):
                raise BadInputError("the first event is not that of an audit", where=str(folder / EVENTS))
            recorded = RecordedEvents(found if first is None else chain((first,), found))
            yield StoppedRun(folder, request, first, recorded, ended)


def _drop_failure(path: Path) -> RunFinished | None:
    """Remove the event that says how a run failed. Return its end if it finished."""
    with explain_write_errors(path), path.open("r+b") as file:
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
    """Return the last line's event; None if it is too long for an end, or damaged, which replay() refuses."""
    with suppress(BadInputError, IndexError):
        return from_line(lines[-1].decode("utf-8", errors="replace"))
    return None


def read_request(folder: Path) -> Request | None:
    """Return a run's request, which tells the kind of run; None if it cannot be read."""
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
    """A run in a list of runs.

    Attributes:
        folder: the run's.
        request: what was asked for.
        exit_code: None while it goes on, or if it was killed.
        has_verdict: whether it reached its end. Its exit code is then the verdict's, or that of a scheme that could not
            be measured.
        written_s: when its events were last written, in seconds since the epoch.
    """

    folder: Path
    request: AuditRequest
    exit_code: int | None
    has_verdict: bool
    written_s: float


def list_runs(folder: Path, *, limit: int) -> list[RunSummary]:
    """Return the audits in a folder, the last written first. Other runs and unreadable ones are skipped."""
    try:
        runs = sorted(folder.glob(f"*/{EVENTS}"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []
    found = (summarize_run(run.parent) for run in runs)
    return list(islice((summary for summary in found if summary is not None), limit))


def summarize_run(folder: Path) -> RunSummary | None:
    """Summarize one run; None if it is not a readable audit. Reads only the ends of its files."""
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
    except BadInputError:  # truncated in the middle of a line
        end = None
    code = end.exit_code if isinstance(end, RunFinished | RunFailed) else None
    return RunSummary(folder, request, code, isinstance(end, RunFinished), (folder / EVENTS).stat().st_mtime)


def read_report(folder: Path) -> Report:
    """Return an audit's report, folded from its events, so a killed run has one too.

    Args:
        folder: the run's; or a report.json by itself.

    Raises:
        BadInputError: the folder holds no audit, or the file is not a report.
    """
    if folder.is_file():
        return read_report_file(folder)
    state = AuditState()
    for event in replay(folder):
        if isinstance(event, TrainingStarted):
            raise BadInputError(
                "this is a training's run, not an audit's",
                where=str(folder),
                mend="Give an audit's run folder; the training's own audit is in the folder audit in it",
            )
        if isinstance(event, CureStarted):
            raise BadInputError(
                f"this is a run of quail {event.request.cure}, not an audit's",
                where=str(folder),
                mend="Give an audit's run folder",
            )
        state.apply(event)
    if state.started is None:
        raise BadInputError("the run has not started", where=str(folder))
    return add_digest(state.report())
