"""What other packages add to Quail through entry points, and finding anything added or built in by its name."""

import re
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from quail_audit.core.errors import UsageError
from quail_audit.core.values import NAME_PATTERN


class Named(Protocol):
    """Something that is named on the command line."""

    name: str


T = TypeVar("T", bound=Named)


def with_plug_ins(own: Iterable[T], group: str, kind: type[T]) -> tuple[T, ...]:
    """Quail's own things of a kind, then those that other packages register.

    A plug-in is a callable that returns one; a broken one is skipped, loudly. Quail's own keep their names.

    Args:
        own: built in.
        group: of the entry points: "quail.schemes".
        kind: what a plug-in must make.
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
    """The thing of this name.

    Args:
        name: as on the command line.
        things: to choose from.
        what: they are: "scheme", whose option is --scheme.
        more: the form of names that are known beside these.

    Raises:
        UsageError: there is none; the message names those there are.
    """
    by_name = {thing.name: thing for thing in things}
    if name not in by_name:
        near = get_close_matches(name, by_name, n=1)
        known = f"Known: {', '.join([*by_name, *([more] if more else [])])}"
        mend = f"Did you mean {near[0]}? {known}" if near else known
        raise UsageError(f"unknown {what} {name!r}", where=f"--{what}", mend=mend)
    return by_name[name]
