"""Turn errors and interruptions into exit codes and a plain message."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec

import typer

from quail_audit.core import interruption
from quail_audit.core.errors import (
    EXIT_ENVIRONMENT,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    QuailError,
)

DEBUG_VARIABLE = "QUAIL_DEBUG"


P = ParamSpec("P")


def report_errors(command: Callable[P, int]) -> Callable[P, None]:
    """Make a command exit with the code that it returns; turn what it raises into a message and a code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from quail_audit.core.writing import no_room_error

        signal.signal(signal.SIGTERM, interruption.interrupt)  # so that a stopped run leaves its folder readable
        try:
            code = command(*args, **kwargs)
        except typer.Exit as end:
            code = end.exit_code
        except KeyboardInterrupt:
            code = _report_interruption()
        except QuailError as error:
            code = _report(error)
        except BrokenPipeError as error:
            code = code_of_unwritten(error)
        except Exception as error:
            if (full := no_room_error(error)) is not None:
                code = _report(full)
            elif interruption.is_requested():
                code = _report_interruption()
            elif os.environ.get(DEBUG_VARIABLE):
                raise
            else:
                say(f"error: a defect of Quail: {type(error).__name__}: {plain(str(error))}")
                say("  Run again with a traceback: quail --debug …")
                code = EXIT_ENVIRONMENT
        raise typer.Exit(code_after_flush(code))

    return run


def code_after_flush(code: int) -> int:
    """Flush the output, and return the exit code: another than the given one if a result could not be written.

    Output that cannot be written is dropped: Python would try once more at its end, and exit with a code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and code in (EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE):
                code = code_of_unwritten(error)
    return code


def code_of_unwritten(error: OSError) -> int:
    """Report a result that could not be written, to a closed pipe or a full disk, and return its exit code."""
    from quail_audit.core.writing import write_error

    return EXIT_INTERRUPTED if isinstance(error, BrokenPipeError) else _report(write_error("", error))


def _report_interruption() -> int:
    say("interrupted; what was measured is kept")
    return EXIT_INTERRUPTED


def _report(error: QuailError) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    place = f"{plain(error.where)}: " if error.where else ""
    say(f"error: {place}{plain(error.message)}")
    if error.mend:
        say(f"  {plain(error.mend)}")
    return error.exit_code


def say(line: str) -> None:
    """Write a line to stderr; if that cannot be written, the exit code has to do."""
    with suppress(OSError):
        typer.echo(line, err=True)


def plain(text: str) -> str:
    """Return a text as a terminal can show it: no control characters."""
    from quail_audit.core.untrusted import printable

    return printable(text)
