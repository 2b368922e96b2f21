"""Write files, or lines of a file, whole or not at all, and explain failures."""

import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quail_audit.core.errors import EnvironmentProblemError, QuailError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM = (*_FULL, errno.EFBIG)


class _NamedFile(io.TextIOWrapper):
    """A text file whose write errors name it."""

    def __init__(self, file: io.BufferedWriter, place: Path) -> None:
        super().__init__(file, encoding="utf-8", errors="backslashreplace", newline="")
        self._place = place

    def write(self, text: str, /) -> int:
        with explain_write_errors(self._place):
            return super().write(text)

    def flush(self) -> None:
        with explain_write_errors(self._place):
            super().flush()


@contextmanager
def whole_file(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file that replaces `path` once it is complete, and is removed on failure.

    It is created at once, so a bad name fails before there is anything to write. Pipes and terminals are written
    directly. Links and permissions are kept.

    Args:
        path: the file; an existing one is replaced.

    Raises:
        EnvironmentProblemError: it cannot be written, as on a full disk; the old file is kept.
    """
    with _explain_bad_name(path), explain_write_errors(path):
        target = path.resolve()
        is_other = target.exists() and not target.is_file()
        if target.is_file() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # A unique name: two writers of one unfinished file would corrupt it.
        own = target if is_other else target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
        file = _NamedFile(own.open("wb" if is_other else "xb"), path)
    try:
        yield file
        with explain_write_errors(path):
            file.flush()
            if not is_other:
                os.fsync(file.fileno())  # some file systems report only now that they are full
            file.close()
            if not is_other:
                if target.exists():
                    shutil.copymode(target, own)
                own.replace(target)
    finally:
        with suppress(OSError, QuailError):
            file.close()
        if not is_other:
            with suppress(OSError):  # it is gone if all went well
                own.unlink()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees all of it or none.

    Raises:
        EnvironmentProblemError: it cannot be written; the old file is kept.
    """
    with whole_file(path) as file, explain_write_errors(path):
        if isinstance(content, bytes):
            file.buffer.write(content)
        else:
            file.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file that must not exist yet, and remove it if writing fails.

    Raises:
        FileExistsError: it exists.
        EnvironmentProblemError: it cannot be written, as on a full disk.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _explain_bad_name(path), explain_write_errors(path):
        file = _NamedFile(path.open("xb"), path)
    try:
        with file:
            yield file
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


@contextmanager
def explain_write_errors(place: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into an error that names the place.

    Raises:
        EnvironmentProblemError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # the reader is gone
        raise
    except OSError as error:
        raise write_error(place, error) from error


@contextmanager
def _explain_bad_name(path: Path) -> Iterator[None]:
    """Explain an invalid name: one with a null character, or a link to itself."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise EnvironmentProblemError(f"cannot write: {error}", where=str(path), mend="Choose another place") from error


def write_error(place: Path | str, error: OSError, *, option: str = "") -> EnvironmentProblemError:
    """Return the error for an operating system's refusal to write.

    Args:
        place: the file or folder; empty if unknown.
        error: the refusal.
        option: the option that chooses another place.
    """
    by = f" with {option}" if option else ""
    if is_disk_full(error):
        message, mend = "the disk is full", f"Free some space there, or choose a place on another disk{by}"
    else:
        message, mend = f"cannot write: {error.strerror or error}", f"Choose a writable place{by}"
    return EnvironmentProblemError(message, where=str(place), mend=mend)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means a full disk or an exhausted quota."""
    return isinstance(error, OSError) and error.errno in _FULL


def no_room_error(error: BaseException) -> EnvironmentProblemError | None:
    """Turn a disk-full error into an EnvironmentProblemError; None for any other error."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return write_error(error.filename or "", error)
    return None


BYTES_PER_STEP = 1 << 16


@contextmanager
def open_to_append(path: Path, *, new: bool) -> Iterator[int]:
    """Open a file for append_line; yield its descriptor.

    Args:
        path: the file.
        new: whether it must not exist yet; if False, it is created if needed.

    Raises:
        EnvironmentProblemError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_EXCL if new else 0), 0o644)
    except OSError as error:  # also if it exists already
        raise write_error(path, error) from error
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
            raise write_error(path, error) from error
        raise


def drop_unfinished_line(path: Path) -> None:
    """Remove a truncated line: what follows the last newline.

    Raises:
        EnvironmentProblemError: the file cannot be written.
    """
    with explain_write_errors(path), path.open("r+b") as file:
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
