"""`quail prescribe`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.core.errors import EnvironmentProblemError, UsageError

if TYPE_CHECKING:
    from quail_audit.schema.report import Report
    from quail_audit.verdict.prescription import Prescription


def prescribe(
    run: Annotated[Path, typer.Argument(help="The run folder of an audit.", show_default=False)],
    scheme: Annotated[
        str | None, typer.Option(help="One of the audit's schemes. Default: the one that brings most back.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the first cure and audit its result; exit with that audit's verdict.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Say what would repair an audited checkpoint: each cure that fits, why, its cost, and the command.

    An erased update can be carried, a drowned one carried with calibration or trained again, a few layers spared; what
    was not forgotten in full precision is mended by none of these.
    """
    from quail_audit.cli.output import new_console
    from quail_audit.reports.text.prescription import show
    from quail_audit.runs.attributions import read_units
    from quail_audit.runs.folder import read_report
    from quail_audit.verdict.prescription import prescribe as advice_on

    report = read_report(run)
    chosen = scheme or _scheme_to_judge(report)
    if chosen not in report.schemes:
        raise UsageError(
            f"the audit did not measure {chosen}", where="--scheme", mend=f"It measured {', '.join(report.schemes)}"
        )
    advice = advice_on(report, str(run), chosen, is_attributed=bool(read_units(run, chosen)))
    show(advice, new_console(sys.stdout))
    return _apply(advice.prescriptions[0], report, quiet=quiet) if apply and advice.prescriptions else 0


prescribe.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n  quail prescribe .quail/runs/20260101-120000-ab12\n\n"
    "  quail prescribe .quail/runs/20260101-120000-ab12 --apply"
)


def _scheme_to_judge(report: Report) -> str:
    """The scheme under which most comes back; without data, that of the most layers at risk."""

    def worst(name: str) -> tuple[float, int]:
        found = report.schemes[name]
        percents = [recovery.percent for recovery in found.recovery.values() if recovery.percent is not None]
        return max(percents, default=-1.0), sum(layer.at_risk for layer in found.layers)

    return max(report.schemes, key=worst)


def _apply(prescription: Prescription, before: Report, *, quiet: bool) -> int:
    """Run a cure's commands, audit what they made, and say what changed.

    Raises:
        QuailError: a command failed, or the audit could not be finished.
    """
    from quail_audit.cli.output import new_console
    from quail_audit.cli.running import audit_and_show
    from quail_audit.reports.text.prescription import show_change
    from quail_audit.runs.folder import read_report
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id

    for command, shown in zip(prescription.commands, prescription.shown, strict=True):
        typer.echo(f"now: {shown}", err=True)
        done = subprocess.run([sys.executable, "-m", "quail_audit", *command[1:]], check=False)
        if done.returncode not in (0, 1, 5):  # a training's own audit may fail it
            raise EnvironmentProblemError(
                f"the cure ended with exit code {done.returncode}", where=shown, mend="Its message above says why"
            )
    (command,) = prescription.commands[:1]
    if "--out" not in command:  # nothing was made that could be audited
        return 0
    request = before.request.model_copy(update={"unlearned": command[command.index("--out") + 1]})
    run = RUNS_FOLDER / new_run_id()
    code = audit_and_show(request, run_dir=run, quiet=quiet)
    show_change(before, read_report(run), new_console(sys.stdout))
    return code
