"""Files that grow by one line at a time, each whole or not at all.

Not here: what the lines say (events.py, journal.py), and whose files they are (runs.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quail_audit.core.writing import cannot_write, writable

BYTES_PER_STEP = 1 << 16


@contextmanager
def open_to_append(path: Path, *, new: bool) -> Iterator[int]:
    """A descriptor for append_line.

    Args:
        path: of the file.
        new: whether it must not exist yet; else it is made where it does not.

    Raises:
        EnvironmentProblemError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_EXCL if new else 0), 0o644)
    except OSError as error:  # of a file that is there already, too
        raise cannot_write(path, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def append_line(descriptor: int, line: str, path: Path) -> None:
    """Append one line whole or not at all.

    Raises:
        EnvironmentProblemError: it cannot be written, as on a full disk.
    """
    data = line.encode("utf-8", errors="backslashreplace") + b"\n"
    before = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BaseException as error:  # a signal may fall between two parts of a line
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def drop_unfinished_line(path: Path) -> None:
    """Take away what stands after the last newline: a line that was cut off.

    Raises:
        EnvironmentProblemError: the file cannot be written.
    """
    with writable(path), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        while start > 0:
            start = max(0, start - BYTES_PER_STEP)
            file.seek(start)
            place = file.read(min(BYTES_PER_STEP, end - start)).rfind(b"\n")
            if place >= 0:
                file.truncate(start + place + 1)
                return
        file.truncate(0)
