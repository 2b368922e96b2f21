"""Finds schemes by name: Quail's own, and those that other packages register under the entry point quail.schemes."""

import functools
from collections.abc import Iterable

from quail_audit.errors import EnvironmentProblemError
from quail_audit.plug_ins import named, with_plug_ins
from quail_audit.schemes import bitsandbytes, gguf, mx, rtn
from quail_audit.schemes.interface import Scheme

ALL = "all"


@functools.cache
def known_schemes() -> tuple[Scheme, ...]:
    """Every scheme but the rarer forms of a family whose names say how it rounds; Quail's own first."""
    own = (*bitsandbytes.schemes(), *rtn.schemes(), *gguf.schemes(), *mx.schemes())
    return with_plug_ins(own, "quail.schemes", Scheme)  # type: ignore[type-abstract]


def runnable_schemes() -> tuple[Scheme, ...]:
    """Those of known_schemes that lack nothing on this machine."""
    return tuple(scheme for scheme in known_schemes() if not scheme.missing())


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names as on the command line, each once, with `all` standing for every scheme that this machine can run."""
    expanded: list[str] = []
    for name in names:
        expanded += [scheme.name for scheme in runnable_schemes()] if name == ALL else [name]
    return tuple(dict.fromkeys(expanded))


def scheme_named(name: str) -> Scheme:
    """The scheme of this name.

    Raises:
        UsageError: there is none; the message names those there are.
        EnvironmentProblemError: this machine lacks what the scheme needs.
    """
    found: Scheme = rtn.scheme_of(name) or named(name, known_schemes(), "scheme", more=rtn.GRAMMAR)
    if lacking := found.missing():
        raise EnvironmentProblemError(f"{name} cannot run on this machine yet", where="--scheme", mend=lacking)
    return found
