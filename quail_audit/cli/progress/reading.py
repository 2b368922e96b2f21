"""Show how much of the files has been read: a bar on a terminal, plain lines elsewhere."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from quail_audit.reports import wording

SECONDS_BETWEEN_LINES = 5.0

Progress = Callable[[int, int], None]  # bytes read, of how many


@contextmanager
def show_reading(stream: TextIO | None, what: str) -> Iterator[Progress]:
    """Show the progress of reading until the end of the block; show nothing without a stream.

    Yields what to call with the number of bytes read, and of how many.
    """
    if stream is None:
        yield lambda done, total: None
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from quail_audit.reports.text.console import PlainTextConsole

        columns = (TextColumn(f" {what}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Bars(*columns, console=PlainTextConsole(stream), transient=True) as bars:
            task = bars.add_task("", total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
    else:
        yield _line_writer(stream, what)


def _line_writer(stream: TextIO, what: str) -> Progress:
    started_s = last_line_s = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last_line_s
        now_s = time.monotonic()
        if now_s - last_line_s < SECONDS_BETWEEN_LINES:
            return
        last_line_s = now_s
        left = wording.duration((now_s - started_s) / done * (total - done))
        stream.write(f"{what}: {wording.byte_size(done)} of {wording.byte_size(total)}, ~{left} left\n")
        stream.flush()

    return progress
