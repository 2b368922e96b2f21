"""Whether this process was asked to stop.

The exception that a signal raises lands anywhere: a library may swallow it, or turn it into an error of its own. The
flag stays, so that whoever comes by next still stops, and an error after it is known for what it is.
"""

import threading
from typing import NoReturn

_asked = threading.Event()


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """A signal handler: stop as Ctrl-C does."""
    _asked.set()
    raise KeyboardInterrupt


def is_requested() -> bool:
    """Whether interrupt has been called in this process."""
    return _asked.is_set()
