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


def reports_errors(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command's result, and whatever it raises, into an exit code and a plain message on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from quail_audit.core.writing import no_room_error

        signal.signal(signal.SIGTERM, interruption.interrupt)  # so that a stopped run leaves its folder readable
        try:
            code = command(*args, **kwargs)
        except typer.Exit as end:
            code = end.exit_code
        except KeyboardInterrupt:
            code = _interrupted()
        except QuailError as error:
            code = _explained(error)
        except BrokenPipeError as error:
            code = unwritten(error)
        except Exception as error:
            if (full := no_room_error(error)) is not None:
                code = _explained(full)
            elif interruption.is_requested():
                code = _interrupted()
            elif os.environ.get(DEBUG_VARIABLE):
                raise
            else:
                say(f"error: a defect of Quail: {type(error).__name__}: {plain(str(error))}")
                say("  Run again with a traceback: quail --debug …")
                code = EXIT_ENVIRONMENT
        raise typer.Exit(ends_with(code))

    return run


def ends_with(code: int) -> int:
    """The exit code once all that was said is written; another where a result cannot be.

    What cannot be written is dropped: Python would try once more at its end, and exit with a code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and code in (EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE):
                code = unwritten(error)
    return code


def unwritten(error: OSError) -> int:
    """What it comes to that a result cannot be written: nobody reads it any more, or there is no room for it."""
    from quail_audit.core.writing import write_error

    return EXIT_INTERRUPTED if isinstance(error, BrokenPipeError) else _explained(write_error("", error))


def _interrupted() -> int:
    say("interrupted; what was measured is kept")
    return EXIT_INTERRUPTED


def _explained(error: QuailError) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    place = f"{plain(error.where)}: " if error.where else ""
    say(f"error: {place}{plain(error.message)}")
    if error.mend:
        say(f"  {plain(error.mend)}")
    return error.exit_code


def say(line: str) -> None:
    """On stderr, where that can be written: the exit code says the rest."""
    with suppress(OSError):
        typer.echo(line, err=True)


def plain(text: str) -> str:
    from quail_audit.core.untrusted import printable

    return printable(text)
