"""Read files of text, compressed or not, and name those that hold something else."""

from __future__ import annotations

import gzip
import shlex
import zlib
from dataclasses import dataclass
from pathlib import Path

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.files.encodings import decode

GZIP = b"\x1f\x8b"
MOST_BYTES = 2 << 30  # of a compressed file's content; a bomb unpacks to more


@dataclass(frozen=True)
class TextFile:
    """A file's text.

    Attributes:
        encoding: Python's name for it.
        notes: notes on the encoding, if it is not UTF.
    """

    text: str
    encoding: str
    notes: tuple[str, ...] = ()


def read_text(path: Path) -> TextFile:
    """Return a file's text, without a byte order mark.

    Raises:
        BadInputError: it cannot be read, or is not text in an encoding that can be told.
    """
    return decode_file(read_bytes(path), path)


def decode_file(data: bytes, path: Path) -> TextFile:
    """Return the text in a file's bytes.

    Raises:
        BadInputError: as read_text.
    """
    _refuse_other_kinds(data[:512], path)
    text, encoding, note = decode(data, path)
    return TextFile(text, encoding, (note,) if note else ())


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, unpacked if it is gzip, by whatever name.

    Raises:
        BadInputError: it cannot be read or unpacked.
    """
    try:
        data = path.read_bytes()
        if data[:2] != GZIP:
            return data
        with gzip.open(path) as file:
            data = file.read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInputError(
            f"the file is not whole gzip: {error}", where=str(path), mend="Compress it again"
        ) from error
    except OSError as error:
        raise BadInputError(f"cannot read the data: {error.strerror or error}", where=str(path)) from error
    if len(data) > MOST_BYTES:
        raise BadInputError(f"the file unpacks to more than {MOST_BYTES >> 30} GiB", where=str(path), mend="Unpack it")
    return data


# (how a file begins, its kind, what to do)
_OTHER_KINDS = (
    (b"version https://git-lfs", "a pointer to a file that Git LFS has not fetched", "Fetch it: git lfs pull"),
    (b"PK\x03\x04", "a zip file or an Excel table", "Unpack it, or save the table as CSV"),
    (b"ARROW1", "an Arrow file", "Write it as JSON lines: Dataset.to_json of the package datasets does"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it: unzstd {}"),
    (b"BZh", "compressed with bzip2", "Unpack it: bunzip2 {}"),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it: unxz {}"),
    (b"<!doctype html", "a web page, not the data", "Download the file itself, by its raw or resolve link"),
    (b"<html", "a web page, not the data", "Download the file itself, by its raw or resolve link"),
)


def _refuse_other_kinds(head: bytes, path: Path) -> None:
    for begins, kind, mend in _OTHER_KINDS:
        if head.lstrip().lower().startswith(begins) if begins.startswith(b"<") else head.startswith(begins):
            raise BadInputError(f"the file is {kind}", where=str(path), mend=mend.format(shlex.quote(str(path))))
