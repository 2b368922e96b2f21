"""Hash an audit's files (SHA-256) in threads while the same files are measured.

Weights are mapped from their files, so the threads and the measuring share the page cache. The threads run at low
priority, hold one piece of a file each, and stop when asked.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Self

from quail_audit.core.errors import BadInputError
from quail_audit.core.machine import usable_cores
from quail_audit.schema.events.audit import FilesAwaited
from quail_audit.schema.figures import FileHash, FileRole, FoundFile

PIECE_BYTES = 1 << 20
NICENESS = 10  # measuring has priority
MOST_THREADS = 4  # more would read faster than most disks
SECONDS_BETWEEN_EVENTS = 1.0


@dataclass(frozen=True)
class FileToHash:
    """A file to hash: its recorded facts, and its path on this machine."""

    found: FoundFile
    file: Path


def find_file(role: FileRole, file: Path, path: str) -> FileToHash:
    """Look at a file as it is now.

    Args:
        role: what the audit reads it for.
        file: where it is.
        path: its name in the report.

    Raises:
        BadInputError: it cannot be read, or is not a regular file.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise _unreadable_error(file, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInputError("is not a regular file", where=str(file))
    return FileToHash(FoundFile(role=role, path=path, bytes=found.st_size, modified_ns=found.st_mtime_ns), file)


def hash_file(file: Path, goes_on: Callable[[int], bool], *, most_bytes: int | None = None) -> str | None:
    """Return the SHA-256 of a regular file, in hexadecimal.

    Args:
        file: the file.
        goes_on: called after every piece with its bytes; hashing stops if it returns False.
        most_bytes: stop at a file that is longer.

    Returns:
        None if hashing was stopped.

    Raises:
        OSError: it cannot be read, or is not a regular file: a pipe or a device would block or never end.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("is not a regular file")
        digest, piece, seen = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES)), 0
        while count := opened.readinto(piece):
            seen += count
            if most_bytes is not None and seen > most_bytes:
                return None
            digest.update(piece[:count])  # lets other threads run
            if not goes_on(count):
                return None
        return digest.hexdigest()


class Hashing:
    """Hashes an audit's files: started once they are known, waited for when all else is done.

    Leaving the context stops the threads.
    """

    def __init__(self) -> None:
        self._places: tuple[FileToHash, ...] = ()
        self._hashes: dict[FileToHash, str] = {}
        self._done_bytes = 0
        self._error: Exception | None = None
        self._lock = threading.Lock()  # of everything above, and of which file is next
        self._stopped = threading.Event()
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._at_work = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def start(self, places: Sequence[FileToHash]) -> None:
        """Start hashing, without waiting."""
        self._places = tuple(places)
        turns = _hashing_order(self._places)
        self._at_work = max(1, min(usable_cores(), MOST_THREADS, len(self._places)))
        self._threads = [
            threading.Thread(target=self._work, args=(turns,), name=f"hashing {number}", daemon=True)
            for number in range(self._at_work)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> Generator[FilesAwaited, None, tuple[FileHash, ...]]:
        """Return the hashes in the order of the places; yield progress on the way.

        A file that was touched after it was hashed is read once more: only its contents count.

        Raises:
            BadInputError: a file cannot be read, or has changed.
        """
        yield from self._wait()
        touched = [place for place in self._places if _current_file(place) != place.found]
        if touched:
            with Hashing() as again:
                again.start([_find_again(place) for place in touched])
                yield from again._wait()
            for place, anew in zip(touched, again._places, strict=True):
                if again._hashes[anew] != self._hashes[place]:
                    raise _changed_error(place.file)
        return tuple(
            FileHash(role=place.found.role, path=place.found.path, bytes=place.found.bytes, sha256=self._hashes[place])
            for place in self._places
        )

    def _wait(self) -> Iterator[FilesAwaited]:
        total_bytes = sum(place.found.bytes for place in self._places)
        while not self._done.wait(SECONDS_BETWEEN_EVENTS):
            yield FilesAwaited(done_bytes=min(self._done_bytes, total_bytes), total_bytes=total_bytes)
        if self._error is not None:
            raise self._error

    def _work(self, turns: Iterator[FileToHash]) -> None:
        if sys.platform == "linux":  # elsewhere it would slow the whole process
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            while not self._stopped.is_set() and (place := self._next(turns)) is not None:
                self._hash(place)
        except Exception as error:  # raised again in wait()
            with self._lock:
                self._error = self._error or error
            self._stopped.set()
        finally:
            with self._lock:
                self._at_work -= 1
                if self._at_work == 0:
                    self._done.set()

    def _next(self, turns: Iterator[FileToHash]) -> FileToHash | None:
        with self._lock:
            return next(turns, None)

    def _hash(self, place: FileToHash) -> None:
        try:
            was = _current_file(place)
            found = hash_file(place.file, self._goes_on, most_bytes=place.found.bytes)
        except OSError as error:
            raise _unreadable_error(place.file, error) from error
        if self._stopped.is_set():
            return
        if found is None or not was == place.found == _current_file(place):
            raise _changed_error(place.file)
        with self._lock:
            self._hashes[place] = found

    def _goes_on(self, count: int) -> bool:
        with self._lock:
            self._done_bytes += count
        return not self._stopped.is_set()


def _hashing_order(places: Sequence[FileToHash]) -> Iterator[FileToHash]:
    """Yield files of both checkpoints in turn, as layers are read from both at once; then the other files."""
    by_role: dict[FileRole, list[FileToHash]] = {}
    for place in places:
        by_role.setdefault(place.found.role, []).append(place)
    first = [by_role.pop(role) for role in ("original", "unlearned") if role in by_role]
    for turn in zip_longest(*first):
        yield from (place for place in turn if place is not None)
    for rest in by_role.values():
        yield from rest


def _find_again(place: FileToHash) -> FileToHash:
    return find_file(place.found.role, place.file, place.found.path)


def _current_file(place: FileToHash) -> FoundFile:
    return _find_again(place).found


def _changed_error(file: Path) -> BadInputError:
    return BadInputError(
        "changed while the audit was reading it, so the figures may mix both versions",
        where=str(file),
        mend="Make sure that nothing writes to it, and audit again",
    )


def _unreadable_error(file: Path, error: OSError) -> BadInputError:
    return BadInputError(
        f"cannot be read: {error.strerror or error}",
        where=str(file),
        mend="Check that it exists and that you can read it",
    )
