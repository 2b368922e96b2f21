"""Make consoles that read no markup: names of layers, metrics and arms come from outside.

Control characters are the caller's business: untrusted.printable() makes them visible.
"""

import errno
import os
from typing import TextIO

from rich.console import Console

TEXT_COLUMNS = 120  # the width of text that goes to a file or a pipe


class PlainTextConsole(Console):
    """A console that reads no markup and raises BrokenPipeError once its reader is gone.

    Args:
        stream: the stream to draw on.
        width: its columns; None: the terminal's.
    """

    def __init__(self, stream: TextIO, *, width: int | None = None) -> None:
        super().__init__(file=stream, width=width, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # Rich would exit with 1, which means fail


def new_console(stream: TextIO) -> PlainTextConsole:
    """Return a console for results: as wide as the terminal, or TEXT_COLUMNS elsewhere."""
    return PlainTextConsole(stream, width=None if stream.isatty() else TEXT_COLUMNS)
