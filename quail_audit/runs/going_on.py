"""Go on with more items after an audit that ended undecided, as a run of its own.

The earlier run stays as it is, since its report may be signed or published. Its journal is kept, and the new run begins
with a copy: it says again what was measured, and measures the rest. The first rows of a random draw are the same
however many are drawn, and the evidence holds at every number of items, so this is as valid as one audit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from quail_audit.core.errors import EXIT_INCONCLUSIVE, BadInputError, UsageError
from quail_audit.runs.follow import replay
from quail_audit.runs.names import JOURNAL
from quail_audit.runs.resume import difference
from quail_audit.schema.events.audit import FilesFound, RunStarted
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest


def may_go_on(report: Report) -> bool:
    """Return True if an audit ended undecided, and not all items may have been asked."""
    most = report.request.max_samples
    asked = [count for metric, count in report.samples.items() if metric.endswith("_forget")]
    return report.exit_code == EXIT_INCONCLUSIVE and most is not None and most in asked


def drop_journal(folder: Path, report: Report) -> None:
    """Remove the journal of a run that ended, unless it may go on with more items."""
    if not may_go_on(report):
        (folder / JOURNAL).unlink(missing_ok=True)


def request_for_more(run: Path, report: Report, max_samples: int) -> AuditRequest:
    """Return the request of the run that goes on.

    Args:
        run: the earlier run's folder.
        report: its report.
        max_samples: how many samples a metric there are to be in all.

    Raises:
        UsageError: it has not ended, is decided, has asked all items, or as many.
    """
    before = report.request.max_samples
    if report.exit_code is None or report.failure is not None:
        why, mend = "the audit was stopped before its end", f"Resume it first, without --max-samples: {run}"
    elif not may_go_on(report) or not (run / JOURNAL).is_file():
        why, mend = "nothing is left to ask: the audit is decided, or asked every item", "Start another audit"
    elif before is None or max_samples <= before:
        why, mend = f"the audit has asked {before} samples a metric already", "Give a larger number"
    else:
        return report.request.model_copy(update={"max_samples": max_samples, "goes_on_from": report.run_id})
    raise UsageError(why, where="--max-samples", mend=mend)


def refuse_changes(events: Events, run: Path) -> Events:
    """Pass the events of the run that goes on.

    Raises:
        BadInputError: its machine, its Quail or the files are not those of the earlier run.
    """
    with closing(replay(run)) as before, closing(events):
        known = _first_of(before)
        for event in events:
            if isinstance(event, RunStarted | FilesFound):
                earlier = next(known, None)
                again = event
                if isinstance(event, RunStarted) and isinstance(earlier, RunStarted):
                    again = event.model_copy(
                        update={key: getattr(earlier, key) for key in ("request", "run_id", "started")}
                    )
                at_s = {"at_s": 0.0}
                if earlier is None or earlier.model_copy(update=at_s) != again.model_copy(update=at_s):
                    changed = "its events are incomplete" if earlier is None else difference(earlier, again)
                    raise BadInputError(
                        f"the audit cannot go on as it began: {changed}",
                        where=str(run),
                        mend="Checkpoints, data, Quail or the machine changed since: start the audit anew",
                    )
            yield event


def _first_of(events: Iterator[Event]) -> Iterator[Event]:
    yield from (event for event in events if isinstance(event, RunStarted | FilesFound))
