"""`quail policy init` and `quail policy check`: write a policy, judge a run by one."""

from __future__ import annotations

import datetime
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.audit import read_baseline
from quail_audit.cli.exit_codes import plain
from quail_audit.cli.options import Run
from quail_audit.core.errors import BadInputError
from quail_audit.reports.text.console import new_console


@command()
def init(
    file: Annotated[Path, typer.Argument(help="File to write; an existing file is never overwritten.")] = Path(
        "quail.toml"
    ),
) -> int:
    """Write a policy with the default limits, and with comments on what else it can hold."""
    from quail_audit.verdict.policy_file import write_template

    write_template(file)
    typer.echo(f"wrote {plain(str(file))} with the default limits; quail audit reads it if started there", err=True)
    return 0


@command(
    "quail policy check .quail/runs/20260101-120000-ab12",
    "quail policy check .quail/runs/20260101-120000-ab12 --policy stricter.toml",
    "quail policy check .quail/runs/20260102-090000-cd34 --baseline .quail/runs/20260101-120000-ab12",
)
def check(
    run: Run,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policy to judge the run by, as of today; none: the default limits. Default: the audit's own policy, "
            "as of the audit's day.",
            metavar="FILE|none",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Fail only on what got worse since this earlier run. Default: the audit's own baseline, if any.",
            metavar="RUN",
        ),
    ] = None,
) -> int:
    """Judge a run by a policy and show each rule's figure beside its limit. Nothing is measured again.

    The exit code is the verdict: 0 pass, 1 fail, 5 inconclusive.
    """
    from quail_audit.reports.text import rules
    from quail_audit.runs.folder import read_report
    from quail_audit.schema.policy import Policy
    from quail_audit.verdict.checks import exit_code
    from quail_audit.verdict.judge import day_of, judge_report, unmeasured_schemes
    from quail_audit.verdict.policy_file import choose_policy, read_policy_and_notes

    found = read_report(run)
    if found.verdict is None:
        raise BadInputError("the run has no verdict: it was stopped before its end", where=str(run))
    recorded = found.policy.effective if found.policy is not None else Policy()
    used, notes = (recorded, ()) if policy is None else read_policy_and_notes(choose_policy(policy, Path()))
    today = day_of(found) if policy is None else datetime.datetime.now(datetime.UTC).date()
    before = found.request.baseline if baseline is None else baseline
    judged = judge_report(found, used, today, None if before is None else read_baseline(before))
    rules.show(replace(judged, notes=(*notes, *judged.notes)), new_console(sys.stdout))
    return exit_code(judged.overall, unmeasured_schemes(found))
