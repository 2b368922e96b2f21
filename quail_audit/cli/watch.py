"""`quail watch`: follow or replay a run."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import Format, Quiet
from quail_audit.cli.running import follow
from quail_audit.cli.serve import open_app
from quail_audit.core.errors import BadInputError, EnvironmentProblemError


@command(
    "quail watch .quail/runs/20260101-120000-ab12",
    "quail watch .quail/runs/20260101-120000-ab12 --tui",
    "quail watch /mnt/cluster/runs/llama --format jsonl",
)
def watch(
    run: Annotated[Path, typer.Argument(help="Folder of a run, still going or ended.", show_default=False)],
    format: Format = "text",  # noqa: A002
    quiet: Quiet = False,
    tui: Annotated[
        bool, typer.Option("--tui", help="Follow the run in the app, where layers and samples can be opened.")
    ] = False,
) -> int:
    """Follow a run that is still going, here or on another machine, or replay one that has ended.

    Shows the same view as the audit itself and exits with the run's exit code. If the run was killed, shows what was
    measured and exits with 4. With --tui, opens the app on the run and exits with 0; leaving the app does not stop the
    run.
    """
    from quail_audit.reports.formats import write_report
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
    if format != "jsonl":
        write_report(state.report(), format, sys.stdout, run)
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
