"""Read untrusted files and TOML documents, up to a size."""

import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable


def read_bounded(path: Path, what: str, *, most_bytes: int) -> bytes:
    """Return a file's bytes.

    Args:
        path: the file.
        what: what it is, for the error: "the report".
        most_bytes: the largest size that is read.

    Raises:
        BadInputError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            found = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadInputError(f"cannot read {what}: {reason or error}", where=printable(str(path))) from error
    if len(found) > most_bytes:
        raise BadInputError(f"{what} is over {most_bytes // 1024} KiB", where=printable(str(path)))
    return found


LARGEST_BYTES = 64 * 1024  # nobody writes more by hand


def read_toml(path: str | Path, what: str, *, largest_bytes: int = LARGEST_BYTES) -> dict[str, Any]:
    """Return the TOML document in a file.

    Args:
        path: the file.
        what: what it is, for the error: "policy".
        largest_bytes: the largest size that is read.

    Raises:
        BadInputError: it cannot be read, is larger than that, or is not TOML.
    """
    where = printable(str(path))
    data = read_bounded(Path(path), f"the {what}", most_bytes=largest_bytes)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML, or an integer of 5,000 digits
        raise BadInputError(f"the {what} is not valid TOML: {error}", where=where) from error


def refuse_unknown(table: Mapping[str, object], known: Collection[str], *, where: str, what: str) -> None:
    """Refuse an unknown key, which is usually a misspelling.

    Raises:
        BadInputError: with the nearest known key, or all of them.
    """
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            mend = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}"
            raise BadInputError(f"unknown {what} '{printable(key, limit=60)}'", where=where, mend=mend)
