"""What hostile input may cost and say: five seconds, a gibibyte, and an error of Quail's without escape codes."""

import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable

MOST_SECONDS = 5.0
MOST_BYTES = 1 << 30
BEYOND_BYTES = 4 << 30  # what no input may get, lest the machine go down with it
LONGEST_ERROR = 2000  # characters; what a person reads


class TooSlowError(BaseException):
    """Not an Exception: readers that catch everything a library raises must not catch this."""


@contextmanager
def refused_or_read(outcomes: Counter[str]) -> Iterator[None]:
    """See that what is done here ends in time, with an error that a person can read or with none; count which.

    The clock counts the processor's time, so that a busy machine does not fail a test; what waits for ever is ended by
    pytest's own timeout.
    """
    started_s = time.process_time()
    before = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
        outcomes["read"] += 1
    except BadInputError as error:
        outcomes["refused"] += 1
        _check(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert time.process_time() - started_s < MOST_SECONDS  # code that is not Python's is not interrupted


def _check(error: BadInputError) -> None:
    said = str(error)
    assert said == printable(said), f"acts on a terminal: {said!r}"
    assert len(said) <= LONGEST_ERROR, f"{len(said)} characters long: {said[:200]}…"
    assert not _is_of_memory(error), "ran out of memory"


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlowError(f"not done after {MOST_SECONDS:.0f} s")


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether it, or what it was raised from, is an allocation that failed."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Memory:
    """The most memory that this process has had in use since this was made, beyond what it had then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's own high-water mark begins anew
        self._before = _peak_bytes()

    @property
    def grown_bytes(self) -> int:
        return _peak_bytes() - self._before


@contextmanager
def bounded_memory() -> Iterator[Memory]:
    """Refuse what would take the machine down; a reader that asks for so much has failed already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(_status("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + BEYOND_BYTES, hard))
    try:
        yield Memory()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _peak_bytes() -> int:
    return int(_status("VmHWM")) * 1024


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
