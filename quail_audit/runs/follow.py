"""Read a run's events: from its start, by their place, or as they come."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from quail_audit.core.errors import BadInputError
from quail_audit.runs.names import EVENTS
from quail_audit.runs.writer import Writer
from quail_audit.schema.events.common import RunFailed, RunFinished
from quail_audit.schema.events.lines import Event, Events, from_line

POLL_INTERVAL_S = 0.2


BYTES_PER_READ = 1 << 20


class PlacedEvent(NamedTuple):
    """An event, and the byte offset of its line in events.jsonl, for read_events."""

    event: Event
    offset: int


def replay(folder: Path, *, follow: bool = False) -> Events:
    """Yield the events of a run as replay_placed does, without their places."""
    with closing(replay_placed(folder, follow=follow)) as events:
        for placed in events:
            yield placed.event


def require_run(folder: Path) -> Path:
    """Return the events file of a run's folder.

    Raises:
        BadInputError: there is none.
    """
    path = folder / EVENTS
    if not path.is_file():
        raise BadInputError(
            "no run here: events.jsonl is missing",
            where=str(folder),
            mend="Give the folder that quail audit wrote, for example .quail/runs/20260101-120000-ab12",
        )
    return path


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def replay_placed(
    folder: Path, *, follow: bool = False, wait: Callable[[float], bool] = _sleep
) -> Generator[PlacedEvent, None, None]:
    """Yield the events of a run from the first; with follow, also new ones until the run or its writer ends.

    A last line without a newline is still being written, or was truncated by a crash, and is left out.

    Args:
        folder: the run's.
        follow: see above.
        wait: called with seconds if there is nothing new; following ends if it returns True.

    Raises:
        BadInputError: the folder holds no run, or a line is no event.
    """
    path = require_run(folder)
    try:
        with path.open("rb") as file:
            yield from _follow(file, folder, follow, wait)
    except OSError as error:
        raise BadInputError(f"cannot read the run: {error.strerror or error}", where=str(path)) from error


def _follow(file: BinaryIO, folder: Path, follow: bool, wait: Callable[[float], bool]) -> Iterator[PlacedEvent]:
    writer = Writer(folder)
    number, offset = 0, 0
    rest = b""
    while True:
        alive = follow and writer.is_alive()  # asked before reading, or the last events could be missed
        data = file.read(BYTES_PER_READ)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number += 1
            event = _event_of(line, f"{folder / EVENTS}, line {number}")
            yield PlacedEvent(event, offset)
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
    """Return events of a run by their offsets from replay_placed.

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
