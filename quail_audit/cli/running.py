"""Run into a folder, show it as it goes, and return the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from quail_audit.cli.exit_codes import plain, say
from quail_audit.cli.output import OutputFormat, open_results, write_report
from quail_audit.core.errors import (
    BadInputError,
    EnvironmentProblemError,
)

if TYPE_CHECKING:
    from quail_audit.cli.progress.live import LiveView
    from quail_audit.cli.progress.plain import PlainProgress
    from quail_audit.runs.state import AnyState
    from quail_audit.schema.events.lines import Event
    from quail_audit.schema.report import CureReport, Report
    from quail_audit.schema.requests import AttributeRequest, AuditRequest, RecipeRequest


def audit_and_show(
    request: AuditRequest,
    *,
    run_dir: Path | None = None,
    format: OutputFormat = "text",  # noqa: A002
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Run an audit into its folder, show it as it goes and its result at the end; return its exit code.

    Raises:
        QuailError: the run could not be finished; what was measured is in its folder.
    """
    from quail_audit.engine.audit.run import audit as events_of
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.journal import open_journal
    from quail_audit.runs.names import JOURNAL, RUNS_FOLDER, new_run_id
    from quail_audit.runs.record import record

    run_id = new_run_id()
    baseline = _baseline(request)
    place = run_dir or RUNS_FOLDER / run_id
    if output is not None and place.absolute() in output.absolute().parents:
        with suppress(OSError):  # what is wrong with it is said where it is written
            place.mkdir(parents=True, exist_ok=True)
    with (
        open_results(output) as results,
        new_run(place, request) as folder,
        _says_how_to_go_on(folder),
        open_journal(folder / JOURNAL) as journal,
        closing(record(events_of(request, run_id, baseline=baseline, journal=journal), folder)) as events,
    ):
        return _show_audit(events, folder, results, format, quiet=quiet)


def resume_and_show(
    run: Path,
    *,
    format: OutputFormat = "text",  # noqa: A002
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Go on with an audit that was stopped, as audit_and_show; of one that is finished, show the result again.

    Raises:
        QuailError: as audit_and_show; the folder holds no audit, or the audit does not go on as it began.
    """
    from quail_audit.engine.audit.run import audit as events_of
    from quail_audit.runs.folder import hold_stopped_run
    from quail_audit.runs.journal import open_journal
    from quail_audit.runs.names import JOURNAL, new_run_id
    from quail_audit.runs.record import record

    with (
        hold_stopped_run(run) as stopped,
        open_results(output) as results,
    ):  # in this order: it sweeps up unfinished files
        if stopped.ended is not None:
            with closing(stopped.recorded.rest()) as events:
                return _show_audit(events, run, results, format, quiet=True)
        first, request = stopped.started, stopped.request
        with (
            _says_how_to_go_on(run),
            open_journal(run / JOURNAL) as journal,
            closing(
                events_of(
                    request,
                    new_run_id() if first is None else first.run_id,
                    baseline=_baseline(request),
                    started=None if first is None else first.started,
                    journal=journal,
                )
            ) as said,
            closing(record(said, run, stopped.recorded)) as events,
        ):
            return _show_audit(events, run, results, format, quiet=quiet)


@contextmanager
def _says_how_to_go_on(folder: Path) -> Iterator[None]:
    """Name the command that goes on with an audit, where it ends before its end and something was measured.

    Not where its input is at fault: the same input would end it again.
    """
    from quail_audit.runs.names import JOURNAL

    try:
        yield
    except BadInputError:
        raise
    except BaseException:
        with suppress(OSError):
            if (folder / JOURNAL).stat().st_size:
                say(f"to go on from here: quail audit --resume {_quoted(folder)}")
        raise


def _quoted(folder: Path) -> str:
    """A folder as a shell reads it, and as no terminal acts on it."""
    import shlex

    return shlex.quote(plain(str(folder)))


def _baseline(request: AuditRequest) -> Report | None:
    return read_baseline(request.baseline) if request.baseline is not None else None


def read_baseline(run: str) -> Report:
    from quail_audit.runs.folder import read_report

    try:
        return read_report(Path(run))
    except BadInputError as error:
        raise BadInputError(
            f"the baseline: {error.message}", where=error.where, mend="Name it with --baseline"
        ) from error


def _show_audit(
    events: Iterator[Event],
    folder: Path,
    results: TextIO,
    format: OutputFormat,  # noqa: A002
    *,
    quiet: bool,
) -> int:
    from quail_audit.runs.names import JOURNAL
    from quail_audit.runs.state.audit import AuditState

    state = follow(events, None if quiet else sys.stderr, results if format == "jsonl" else None)
    assert isinstance(state, AuditState)  # noqa: S101 - an audit's first event says so
    assert state.end is not None  # noqa: S101 - a run without an end raises
    (folder / JOURNAL).unlink(missing_ok=True)  # of no use to a run that is finished
    report = state.report()
    try:
        write_report(report, results, format, folder)
    except (EnvironmentProblemError, OSError):
        say(f"the audit is done, and only its result could not be written: quail report {_quoted(folder)}")
        raise
    if format == "text" and report.verdict is not None:
        typer.echo(f" run folder: {folder}", err=True)
    return state.end.exit_code


def follow(events: Iterator[Event], progress: TextIO | None, streamed: TextIO | None) -> AnyState:
    """Follow a run of any kind to its end: progress as a face, each event as a line to streamed."""
    from contextlib import nullcontext

    from quail_audit.runs.state import state_for
    from quail_audit.runs.state.audit import AuditState
    from quail_audit.schema.events.lines import to_line

    state: AnyState = AuditState()
    face = _face(progress) if progress is not None else nullcontext()
    with face as shown:
        for event in events:
            state = state_for(event, state)
            state.apply(event)
            if streamed is not None:
                streamed.write(to_line(event) + "\n")
                streamed.flush()
            if shown is not None:
                shown.update(event, state)
    return state


def _face(stream: TextIO) -> LiveView | PlainProgress:
    """A live view where a person looks, plain lines elsewhere."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from quail_audit.cli.progress.live import LiveView
        from quail_audit.reports.text.console import PlainTextConsole

        return LiveView(PlainTextConsole(stream))
    from quail_audit.cli.progress.plain import PlainProgress

    return PlainProgress(stream)


def worst_scheme(run: Path) -> str:
    """The audit's scheme under which most comes back.

    Raises:
        BadInputError: the run measured no recovery.
    """
    from quail_audit.runs.folder import read_report

    report = read_report(run)
    percents = {
        name: max((found.percent for found in scheme.recovery.values() if found.percent is not None), default=-1.0)
        for name, scheme in report.schemes.items()
    }
    if not percents or max(percents.values()) < 0.0:
        raise BadInputError(
            "the audit measured no recovery", where=str(run), mend="Name a scheme with --scheme, or audit with --data"
        )
    return max(percents, key=lambda name: percents[name])


def run_and_show(
    request: AttributeRequest | RecipeRequest,
    events_of: Callable[[str, Path], Iterator[Event]],
    audited: Path,
    run_dir: Path | None,
    *,
    quiet: bool,
    draw: Callable[[CureReport, Path], None] | None = None,
) -> int:
    """Run it into its folder, show it as it goes and its result at the end; return its exit code.

    draw: adds a picture of the report to the run's folder.
    """
    from quail_audit.cli.output import new_console
    from quail_audit.reports.text.cure import show
    from quail_audit.runs.attributions import CURES_FOLDER
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.names import new_run_id
    from quail_audit.runs.record import record
    from quail_audit.runs.state.cure import CureState

    run_id = new_run_id()
    with (
        new_run(run_dir or audited / CURES_FOLDER / f"{run_id}-{request.cure}", request) as folder,
        closing(record(events_of(run_id, folder), folder)) as events,
    ):
        state = follow(events, None if quiet else sys.stderr, None)
    assert isinstance(state, CureState)  # noqa: S101 - its first event says so
    report = state.report()
    if draw is not None:
        draw(report, folder)
    show(report, new_console(sys.stdout))
    typer.echo(f" run folder: {folder}", err=True)
    assert state.end is not None  # noqa: S101 - a run without an end raises
    return state.end.exit_code
