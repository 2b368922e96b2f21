"""Write a run's events to disk before anybody sees them, and its report at the end."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from quail_audit.core import interruption
from quail_audit.core.clock import utc_now
from quail_audit.core.errors import EnvironmentProblemError, InterruptedRunError, QuailError
from quail_audit.core.writing import append_line, no_room_error, open_to_append, write_whole
from quail_audit.runs.digest import add_digest
from quail_audit.runs.names import EVENTS, REPORT
from quail_audit.runs.resume import RecordedEvents
from quail_audit.runs.state import AnyState, state_for
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.events.lines import Event, Events, to_line
from quail_audit.schema.report import CureReport, Failure, Report, TrainingReport


def record(events: Iterator[Event], folder: Path, recorded: RecordedEvents | None = None) -> Events:
    """Yield a run's events, each written and flushed to the folder first; write the report at the end.

    An error or interruption becomes the run's last event, and is raised again.

    Args:
        events: the run's, from the first.
        folder: the run's, held as its only writer.
        recorded: a resumed run's earlier events, which are yielded but not written again.

    Raises:
        EnvironmentProblemError: something cannot be written, as on a full disk. Everything written before stands.
    """
    state: AnyState = AuditState()
    before = RecordedEvents(iter(())) if recorded is None else recorded
    started_s = time.monotonic()
    with open_to_append(folder / EVENTS, new=recorded is None) as descriptor:

        def fold(event: Event) -> Event:
            nonlocal state
            state = state_for(event, state)
            state.apply(event)
            return event

        def write(event: Event) -> Event:
            at_s = round(before.at_s + time.monotonic() - started_s, 3)
            stamped = event.model_copy(update={"at_s": at_s})
            append_line(descriptor, to_line(stamped), folder / EVENTS)
            return fold(stamped)

        def write_report() -> None:
            if state.started is not None:
                write_whole(folder / REPORT, report_text(state.report()))

        def write_end(failed: RunFailed) -> None:
            for known in before.replay_rest():
                fold(known)
            with suppress(QuailError):  # the disk is full: the error being raised says so
                write(failed)
            with suppress(QuailError):  # the events are there, and the report is a fold of them
                write_report()

        try:
            for event in events:
                for known in before.replay_until(event):
                    yield fold(known)
                if before.is_over:
                    yield write(event)
                if interruption.is_requested():  # and a library swallowed the exception
                    raise KeyboardInterrupt
        except GeneratorExit:  # the reader stopped: Ctrl-C, or a closed pipe
            write_end(_failure(InterruptedRunError("stopped before the end")))
            raise
        except BaseException as error:
            failed = _failure(error)
            write_end(failed)
            yield failed
            raise
        write_report()


def report_text(report: Report | TrainingReport | CureReport) -> str:
    """Return report.json's text; an audit's report gets its digest."""
    return (add_digest(report) if isinstance(report, Report) else report).model_dump_json(indent=2) + "\n"


def _failure(error: BaseException) -> RunFailed:
    if isinstance(error, KeyboardInterrupt) or interruption.is_requested():
        error = InterruptedRunError("interrupted")
    error = no_room_error(error) or error
    if isinstance(error, QuailError):
        return RunFailed(finished=utc_now(), exit_code=error.exit_code, **Failure.of(error).model_dump())
    return RunFailed(
        finished=utc_now(),
        kind="defect",
        message=f"{type(error).__name__}: {error}",
        mend="This is a bug in Quail; run again with --debug for a traceback",
        exit_code=EnvironmentProblemError.exit_code,
    )
