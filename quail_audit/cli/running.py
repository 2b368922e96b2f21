"""Run something into a folder, show it, write its result, and return the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from quail_audit.cli.exit_codes import plain, say
from quail_audit.cli.output import OutputFormat, open_results
from quail_audit.core.errors import BadInputError, EnvironmentProblemError

if TYPE_CHECKING:
    from quail_audit.cli.progress.live import LiveView
    from quail_audit.cli.progress.plain import PlainProgress
    from quail_audit.reports.formats import AnyReport
    from quail_audit.runs.state import AnyState
    from quail_audit.schema.events.lines import Event, Events
    from quail_audit.schema.requests import Request


def run_and_show(
    request: Request,
    events: Events,
    folder: Path,
    *,
    format: OutputFormat = "text",  # noqa: A002 - the option's name
    output: Path | None = None,
    quiet: bool = False,
    draw: Callable[[AnyReport, Path], None] | None = None,
) -> int:
    """Run into a new folder, show the run as it goes and its result at the end; return its exit code.

    Args:
        request: what was asked for.
        events: of the run; nothing happens before the first is asked for.
        folder: made for the run.
        format: of the result.
        output: file of the result. None: stdout.
        quiet: show no progress.
        draw: adds pictures of the report to the folder.

    Raises:
        QuailError: the run could not be finished; what was measured is in its folder.
    """
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.record import record

    if output is not None and folder.absolute() in output.absolute().parents:
        with suppress(OSError):  # opening the output says what is wrong
            folder.mkdir(parents=True, exist_ok=True)
    with (
        open_results(output) as results,
        new_run(folder, request),
        tell_how_to_resume(folder),
        closing(events),
        closing(record(events, folder)) as recorded,
    ):
        return show_run(recorded, folder, results, format, quiet=quiet, draw=draw)


@contextmanager
def tell_how_to_resume(folder: Path) -> Iterator[None]:
    """If an audit is stopped after something was measured, name the command that resumes it.

    Says nothing if the input is at fault: the same input would stop it again.
    """
    from quail_audit.runs.names import JOURNAL

    try:
        yield
    except BadInputError:
        raise
    except BaseException:
        with suppress(OSError):
            if (folder / JOURNAL).stat().st_size:
                say(f"to go on from here: quail audit --resume {_quote(folder)}")
        raise


def show_run(
    events: Iterator[Event],
    folder: Path,
    results: TextIO,
    format: OutputFormat,  # noqa: A002 - the option's name
    *,
    quiet: bool,
    draw: Callable[[AnyReport, Path], None] | None = None,
) -> int:
    """Follow a run to its end, write its result, and return its exit code."""
    from quail_audit.reports.formats import write_report
    from quail_audit.runs.going_on import drop_journal, may_go_on
    from quail_audit.runs.state.audit import AuditState
    from quail_audit.schema.report import Report

    state = follow(events, None if quiet else sys.stderr, results if format == "jsonl" else None)
    assert state.end is not None  # noqa: S101 - a run without an end raises
    report = state.report()
    if isinstance(report, Report):
        drop_journal(folder, report)
    if draw is not None:
        draw(report, folder)
    try:
        if format != "jsonl":
            write_report(report, format, results, folder)
    except (EnvironmentProblemError, OSError):
        command = "report" if isinstance(state, AuditState) else "watch"
        say(f"the run is done, only its result could not be written: quail {command} {_quote(folder)}")
        raise
    if format == "text":
        typer.echo(f" run folder: {folder}", err=True)
    if isinstance(report, Report) and may_go_on(report):
        say(f"to go on with more items: quail audit --resume {_quote(folder)} --max-samples N")
    return state.end.exit_code


def _quote(folder: Path) -> str:
    """Return a folder as a shell reads it, and as no terminal acts on it."""
    import shlex

    return shlex.quote(plain(str(folder)))


def follow(events: Iterator[Event], progress: TextIO | None, streamed: TextIO | None) -> AnyState:
    """Follow a run to its end, and return its state.

    Args:
        events: of a run of any kind.
        progress: where its progress is shown.
        streamed: where each event is written as a line of JSON.
    """
    from quail_audit.runs.state import state_for
    from quail_audit.runs.state.audit import AuditState
    from quail_audit.schema.events.lines import to_line

    state: AnyState = AuditState()
    with _view_on(progress) if progress is not None else nullcontext() as view:
        for event in events:
            state = state_for(event, state)
            state.apply(event)
            if streamed is not None:
                streamed.write(to_line(event) + "\n")
                streamed.flush()
            if view is not None:
                view.update(event, state)
    return state


def _view_on(stream: TextIO) -> LiveView | PlainProgress:
    """Return a live view for a terminal, plain lines for anything else."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from quail_audit.cli.progress.live import LiveView
        from quail_audit.reports.text.console import PlainTextConsole

        return LiveView(PlainTextConsole(stream))
    from quail_audit.cli.progress.plain import PlainProgress

    return PlainProgress(stream)
