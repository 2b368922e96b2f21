"""Find schemes by name: Quail's own, and those of plug-ins (entry point quail.schemes)."""

import functools
from collections.abc import Iterable
from typing import TypeVar

from quail_audit.core.errors import EnvironmentProblemError, UsageError
from quail_audit.core.plug_ins import add_plug_ins, find_by_name
from quail_audit.engine.schemes import bitsandbytes, calibrated, gguf, mx, rtn
from quail_audit.engine.schemes.calibrated import CalibratedScheme
from quail_audit.engine.schemes.interface import Scheme

ALL = "all"


@functools.cache
def known_schemes() -> tuple[Scheme, ...]:
    """Return every scheme but the rarer forms of a family whose names say how it rounds; Quail's own first."""
    own = (*bitsandbytes.schemes(), *rtn.schemes(), *gguf.schemes(), *mx.schemes())
    return add_plug_ins(own, "quail.schemes", Scheme)  # type: ignore[type-abstract]


def listed_schemes() -> tuple[Scheme | CalibratedScheme, ...]:
    """Return what lists of schemes show: known_schemes, and those that are calibrated on texts."""
    return (*known_schemes(), *calibrated.schemes())


def expand_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as on the command line, each once, with `all` replaced by every scheme that this machine can run."""
    expanded: list[str] = []
    runnable = [scheme.name for scheme in listed_schemes() if not scheme.install_command()]
    for name in names:
        expanded += runnable if name == ALL else [name]
    return tuple(dict.fromkeys(expanded))


def scheme_named(name: str) -> Scheme:
    """Return the scheme of this name, which needs nothing but a matrix.

    Raises:
        UsageError: there is none; the message lists the names.
        EnvironmentProblemError: this machine lacks what the scheme needs.
    """
    if calibrated.scheme_of(name) is not None:
        raise UsageError(f"{name} is calibrated on texts, which only an audit can do", where="--scheme")
    more = f"{rtn.GRAMMAR}, {calibrated.GRAMMAR}"
    return _check_installed(rtn.scheme_of(name) or find_by_name(name, known_schemes(), "scheme", more=more))


def any_scheme_named(name: str) -> Scheme | CalibratedScheme:
    """Return the scheme of this name, calibrated or not.

    Raises:
        UsageError: there is none; the message lists the names.
        EnvironmentProblemError: this machine lacks what the scheme needs.
    """
    found = calibrated.scheme_of(name)
    return scheme_named(name) if found is None else _check_installed(found)


S = TypeVar("S", Scheme, CalibratedScheme)


def _check_installed(found: S) -> S:
    if lacking := found.install_command():
        raise EnvironmentProblemError(f"{found.name} cannot run on this machine yet", where="--scheme", mend=lacking)
    return found
