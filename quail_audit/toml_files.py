"""Reads the TOML files people write for Quail. Not here: what their keys mean (policy.py, tui/themes.py)."""

import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable

LARGEST_BYTES = 64 * 1024  # nobody writes more by hand


def read_toml(path: str | Path, what: str, *, largest_bytes: int = LARGEST_BYTES) -> dict[str, Any]:
    """The document in a file.

    Args:
        path: the file.
        what: what it is, for the error: "policy".
        largest_bytes: of a file that is read.

    Raises:
        BadInputError: it cannot be read, is larger than that, or is not TOML.
    """
    where = printable(str(path))
    try:
        with Path(path).open("rb") as file:
            data = file.read(largest_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(f"cannot read the {what}: {reason}", where=where) from error
    if len(data) > largest_bytes:
        raise BadInputError(f"the {what} is over {largest_bytes // 1024} KiB", where=where)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML, or an integer of 5,000 digits
        raise BadInputError(f"the {what} is not valid TOML: {error}", where=where) from error


def refuse_unknown(table: Mapping[str, object], known: Collection[str], *, where: str, what: str) -> None:
    """Refuse a key nobody reads, which is mostly a misspelt one.

    Raises:
        BadInputError: with the nearest known key, or all of them.
    """
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            mend = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}"
            raise BadInputError(f"unknown {what} '{printable(key, limit=60)}'", where=where, mend=mend)
