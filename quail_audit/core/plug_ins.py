"""Load what other packages add through entry points, and find things by name."""

import re
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from quail_audit.core.errors import UsageError
from quail_audit.core.values import NAME_PATTERN


class Named(Protocol):
    """Something with a name for the command line."""

    name: str


T = TypeVar("T", bound=Named)


def add_plug_ins(own: Iterable[T], group: str, kind: type[T]) -> tuple[T, ...]:
    """Return the built-in things of a kind, then those that other packages register.

    A plug-in is a callable that returns one. A broken plug-in is skipped with a warning. Built-in names win.

    Args:
        own: the built-in things.
        group: the entry-point group, such as "quail.schemes".
        kind: the type that a plug-in must return.
    """
    found = {thing.name: thing for thing in own}
    for entry in entry_points(group=group):
        try:
            made = entry.load()()
            if not isinstance(made, kind):
                raise TypeError(f"it returned a {type(made).__name__}, not a {kind.__name__}")
            if not re.fullmatch(NAME_PATTERN, made.name):
                raise ValueError(f"{made.name!r} is not a valid name")
        except Exception as error:  # a plug-in may fail in any way; the others must work
            message = f"the {kind.__name__.lower()} plug-in {entry.name} was skipped: {error}"
            warnings.warn(message, stacklevel=2)
        else:
            found.setdefault(made.name, made)
    return tuple(found.values())


def find_by_name(name: str, things: Sequence[T], what: str, more: str = "") -> T:
    """Return the thing with this name.

    Args:
        name: as on the command line.
        things: to choose from.
        what: their kind, such as "scheme" for the option --scheme.
        more: the form of further valid names.

    Raises:
        UsageError: there is none; the message lists the known names.
    """
    by_name = {thing.name: thing for thing in things}
    if name not in by_name:
        near = get_close_matches(name, by_name, n=1)
        known = f"Known: {', '.join([*by_name, *([more] if more else [])])}"
        mend = f"Did you mean {near[0]}? {known}" if near else known
        raise UsageError(f"unknown {what} {name!r}", where=f"--{what}", mend=mend)
    return by_name[name]
