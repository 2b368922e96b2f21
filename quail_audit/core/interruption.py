"""Remember that this process was asked to stop.

The exception that a signal raises lands anywhere: a library may swallow it, or turn it into an error of its own. The
flag stays, so the next check still stops, and a later error is recognized as an interruption.
"""

import threading
from typing import NoReturn

_asked = threading.Event()


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """Handle a signal: stop as Ctrl-C does."""
    _asked.set()
    raise KeyboardInterrupt


def is_requested() -> bool:
    """Return whether interrupt has been called in this process."""
    return _asked.is_set()
