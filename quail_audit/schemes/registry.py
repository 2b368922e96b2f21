"""Finds schemes by name: Quail's own, and those that other packages register under the entry point quail.schemes."""

import functools
import warnings
from difflib import get_close_matches
from importlib.metadata import entry_points

from quail_audit.errors import UsageError
from quail_audit.schemes import bitsandbytes
from quail_audit.schemes.interface import Scheme


@functools.cache
def known_schemes() -> tuple[Scheme, ...]:
    """Every scheme, Quail's own first.

    A plug-in is a callable that returns a Scheme; a broken one is skipped, loudly.
    """
    found = {scheme.name: scheme for scheme in bitsandbytes.schemes()}
    for entry in entry_points(group="quail.schemes"):
        try:
            plugged_in = entry.load()()
            if not isinstance(plugged_in, Scheme):
                raise TypeError(f"it made a {type(plugged_in).__name__}, not a Scheme")
        except Exception as error:  # a plug-in may fail in any way; the others must work
            warnings.warn(f"the scheme plug-in {entry.name} was skipped: {error}", stacklevel=2)
        else:
            found.setdefault(plugged_in.name, plugged_in)
    return tuple(found.values())


def scheme_named(name: str) -> Scheme:
    """The scheme of this name.

    Raises:
        UsageError: there is none; the message names those there are.
    """
    schemes = {scheme.name: scheme for scheme in known_schemes()}
    if name not in schemes:
        near = get_close_matches(name, schemes, n=1)
        known = f"Known: {', '.join(schemes)}"
        mend = f"Did you mean {near[0]}? {known}" if near else known
        raise UsageError(f"unknown scheme {name!r}", where="--scheme", mend=mend)
    return schemes[name]
