"""`quail prescribe`: show what would repair an audited checkpoint, and run it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.audit import run_audit
from quail_audit.cli.options import AuditedScheme, Quiet, Run
from quail_audit.core.errors import BadInputError, EnvironmentProblemError, UsageError
from quail_audit.reports.text.console import new_console

if TYPE_CHECKING:
    from quail_audit.schema.report import Report
    from quail_audit.verdict.prescription import Prescription


@command(
    "quail prescribe .quail/runs/20260101-120000-ab12",
    "quail prescribe .quail/runs/20260101-120000-ab12 --apply",
)
def prescribe(
    run: Run,
    scheme: AuditedScheme = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the first cure and audit its result; exit with that audit's verdict.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Show what would repair an audited checkpoint: each cure that fits, why, its cost, and the command.

    An erased update can be carried, a drowned one carried with calibration or trained again, a few layers spared. None
    of these repairs what was not forgotten in full precision.
    """
    from quail_audit.reports.text.prescription import show
    from quail_audit.runs.attributions import read_units
    from quail_audit.runs.folder import read_report
    from quail_audit.verdict.prescription import prescribe as advice_on
    from quail_audit.verdict.standings import worst

    report = read_report(run)
    chosen = scheme or worst(report)
    if chosen is None:
        raise BadInputError("the audit measured no scheme", where=str(run))
    if chosen not in report.schemes:
        raise UsageError(
            f"the audit did not measure {chosen}", where="--scheme", mend=f"It measured {', '.join(report.schemes)}"
        )
    advice = advice_on(report, str(run), chosen, is_attributed=bool(read_units(run, chosen)))
    show(advice, new_console(sys.stdout))
    return _apply(advice.prescriptions[0], report, quiet=quiet) if apply and advice.prescriptions else 0


def _apply(prescription: Prescription, before: Report, *, quiet: bool) -> int:
    """Run a cure's commands, audit what they made, and show what changed.

    Raises:
        QuailError: a command failed, or the audit could not be finished.
    """
    from quail_audit.reports.text.prescription import show_change
    from quail_audit.runs.folder import read_report
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id

    for arguments, shown in zip(prescription.commands, prescription.shown, strict=True):
        typer.echo(f"now: {shown}", err=True)
        done = subprocess.run([sys.executable, "-m", "quail_audit", *arguments[1:]], check=False)
        if done.returncode not in (0, 1, 5):  # a training's own audit may fail it
            raise EnvironmentProblemError(
                f"the cure ended with exit code {done.returncode}", where=shown, mend="Its message above says why"
            )
    made = prescription.commands[0]
    if "--out" not in made:  # nothing was made that could be audited
        return 0
    request = before.request.model_copy(update={"unlearned": made[made.index("--out") + 1]})
    run = RUNS_FOLDER / new_run_id()
    code = run_audit(request, run_dir=run, quiet=quiet)
    show_change(before, read_report(run), new_console(sys.stdout))
    return code
