"""Consoles to draw on, where every text is text, whoever wrote it: names of layers, metrics and arms come from outside.

What acts on a terminal is not its business: untrusted.printable() makes that visible.
"""

import errno
import os
from typing import TextIO

from rich.console import Console


class PlainTextConsole(Console):
    """Reads no markup in any text. One that nobody reads any more raises BrokenPipeError.

    Args:
        stream: to draw on.
        width: columns; None: the terminal's.
    """

    def __init__(self, stream: TextIO, *, width: int | None = None) -> None:
        super().__init__(file=stream, width=width, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # Rich would exit with 1, which means fail
