"""`quail attribute`: find the layers that bring the memory back."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import AuditedScheme, BootstrapSeed, CureDir, Quiet, TextsAtOnce
from quail_audit.cli.running import run_and_show
from quail_audit.core.errors import BadInputError, UsageError


@command(
    "quail attribute .quail/runs/20260101-120000-ab12",
    "quail attribute .quail/runs/20260101-120000-ab12 --scheme nf4 --budget 10m",
)
def attribute(
    run: Annotated[Path, typer.Argument(help="Run folder of an audit with data.", show_default=False)],
    scheme: AuditedScheme = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Stop after this many passes over the forget texts, or this long: 40, 90s, 10m.", metavar="N|Ns|Nm"
        ),
    ] = None,
    batch_size: TextsAtOnce = None,
    seed: BootstrapSeed = 0,
    run_dir: CureDir = None,
    quiet: Quiet = False,
) -> int:
    """Find the layers that bring the memory back when the model is rounded.

    Rounds one block, one role, then one layer at a time, and all but it, and measures what that does to the loss on the
    forget texts. Weights are swapped in one loaded model.
    """
    from quail_audit.engine.cures.attribution import attribute as events_of
    from quail_audit.runs.names import new_run_id
    from quail_audit.schema.requests import AttributeRequest

    passes, seconds = read_budget(budget)
    request = AttributeRequest(
        run=str(run),
        scheme=scheme or worst_scheme(run),
        budget_passes=passes,
        budget_s=seconds,
        batch_size=batch_size,
        seed=seed,
    )
    run_id = new_run_id()
    events = events_of(request, run_id, ("quail", *sys.argv[1:]))
    return run_and_show(request, events, run_dir or cure_folder(run, run_id, "attribute"), quiet=quiet)


def cure_folder(run: Path, run_id: str, cure: str) -> Path:
    """Return the folder for a cure's run inside the audit's."""
    from quail_audit.runs.attributions import CURES_FOLDER

    return run / CURES_FOLDER / f"{run_id}-{cure}"


def worst_scheme(run: Path) -> str:
    """Return the scheme of an audit under which most comes back.

    Raises:
        BadInputError: the run did not measure forgetting.
    """
    from quail_audit.runs.folder import read_report
    from quail_audit.verdict.standings import worst

    report = read_report(run)
    found = worst(report)
    if found is None or not any(scheme.knowledge for scheme in report.schemes.values()):
        raise BadInputError(
            "the audit did not measure forgetting",
            where=str(run),
            mend="Name a scheme with --scheme, or audit with --data",
        )
    return found


def read_budget(text: str | None) -> tuple[int | None, float | None]:
    """Return (passes, seconds) of --budget, of which at most one is not None.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None, None
    found = re.fullmatch(r"([1-9]\d{0,8})([sm]?)", text)
    if found is None:
        raise UsageError(
            f"cannot read {text!r}", where="--budget", mend="Give passes, seconds or minutes: 40, 90s, 10m"
        )
    number = int(found[1])
    return (number, None) if not found[2] else (None, number * (60.0 if found[2] == "m" else 1.0))
