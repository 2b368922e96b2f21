"""`quail watch`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import reports_errors
from quail_audit.cli.output import OutputFormat, write_report
from quail_audit.cli.running import follow
from quail_audit.cli.serve import open_app
from quail_audit.core.errors import (
    BadInputError,
    EnvironmentProblemError,
)


@app.command(
    epilog="Examples:\n\n"
    "  quail watch .quail/runs/20260101-120000-ab12\n\n"
    "  quail watch .quail/runs/20260101-120000-ab12 --tui\n\n"
    "  quail watch /mnt/cluster/runs/llama --format jsonl"
)
@reports_errors
def watch(
    run: Annotated[Path, typer.Argument(help="A run's folder, of a run still going or ended.", show_default=False)],
    format: Annotated[OutputFormat, typer.Option(help="Of the result.")] = "text",  # noqa: A002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    tui: Annotated[bool, typer.Option("--tui", help="Follow it in the app, where its parts can be opened.")] = False,
) -> int:
    """Follow a run that is going on, here or on another machine, or replay one that has ended.

    Shows the same view as the audit itself and exits with the run's exit code. Of a run that was killed it shows what
    was measured, and exits with 4. With --tui it opens the app on the run and exits with 0; leaving the app leaves the
    run alone.
    """
    from quail_audit.runs.follow import replay, require_run
    from quail_audit.runs.state.audit import AuditState
    from quail_audit.runs.state.training import TrainingState

    if tui:
        require_run(run)
        return open_app(run)

    streamed = sys.stdout if format == "jsonl" else None
    with closing(replay(run, follow=True)) as events:
        state = follow(events, None if quiet else sys.stderr, streamed)
    if state.started is None:
        raise BadInputError("the run ended before it had measured anything", where=str(run))
    write_report(state.report(), sys.stdout, format, run)
    if state.end is None:
        is_audit = isinstance(state, AuditState)
        mends = {
            AuditState: "What it had measured is shown above; run the audit again for a verdict",
            TrainingState: "Go on from its last checkpoint with quail train --resume-from-checkpoint, or train again",
        }
        raise EnvironmentProblemError(
            f"the run ended without {'a verdict' if is_audit else 'its result'}: its process was killed or its machine "
            "went away",
            where=str(run),
            mend=mends.get(type(state), "Run the same command again"),
        )
    return state.end.exit_code
