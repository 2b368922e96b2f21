"""Reads whole files that came from anywhere, up to a size. Not here: what is in them."""

from pathlib import Path

from quail_audit.core.errors import BadInputError


def read_bounded(path: Path, what: str, *, most_bytes: int) -> bytes:
    """A file's bytes.

    Args:
        path: the file.
        what: what it is, for the error: "the report".
        most_bytes: of a file that is read.

    Raises:
        BadInputError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            found = file.read(most_bytes + 1)
    except OSError as error:
        raise BadInputError(f"cannot read {what}: {error.strerror or error}", where=str(path)) from error
    if len(found) > most_bytes:
        raise BadInputError(f"larger than {what} can be: over {most_bytes} bytes", where=str(path))
    return found
