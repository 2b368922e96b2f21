"""`quail verify` and `quail sign`: check and sign an audit's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from quail_audit.cli.app import command
from quail_audit.cli.exit_codes import plain
from quail_audit.cli.options import Quiet, RunOrReport
from quail_audit.reports.text.console import new_console


def _path_of(what: str, metavar: str = "DIR") -> Any:
    return typer.Option(help=f"Path of the {what}. Default: the path that the audit read.", metavar=metavar)


@command(
    "quail verify .quail/runs/20260101-120000-ab12",
    "quail verify report.json --original models/llama --unlearned models/llama-unlearned --data muse-news",
    "quail verify .quail/runs/20260101-120000-ab12 --public-key release.pub.pem --format json",
)
def verify(
    run: RunOrReport,
    original: Annotated[Path | None, _path_of("original")] = None,
    unlearned: Annotated[Path | None, _path_of("unlearned model")] = None,
    retrain: Annotated[Path | None, _path_of("reference model")] = None,
    data: Annotated[Path | None, _path_of("data")] = None,
    calibration: Annotated[Path | None, _path_of("calibration texts", "FILE")] = None,
    policy: Annotated[Path | None, _path_of("policy", "FILE")] = None,
    baseline: Annotated[Path | None, _path_of("baseline's run", "RUN")] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="Public Ed25519 key, PEM or OpenSSH; the run must be signed with it. Needs the extra sign.",
            metavar="FILE",
        ),
    ] = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="Output format.")] = "text",  # noqa: A002
    quiet: Quiet = False,
) -> int:
    """Check whether an audit's files have changed: its report, its events, and every file that it read.

    The exit code is 0 if nothing has changed, 1 if something was changed, added or is missing, and 5 if no change was
    found but not everything could be checked.
    """
    from quail_audit.cli.progress.reading import show_reading
    from quail_audit.reports.text import verification
    from quail_audit.runs.integrity.verify import verify as verified
    from quail_audit.schema.figures import FileRole

    places: dict[FileRole, Path | None] = {
        "original": original,
        "unlearned": unlearned,
        "retrain": retrain,
        "data": data,
        "calibration": calibration,
        "policy": policy,
        "baseline": baseline,
    }
    given = {role: place for role, place in places.items() if place is not None}
    with show_reading(None if quiet else sys.stderr, "reading files") as progress:
        found = verified(run, given, public_key=public_key, progress=progress)
    if format == "json":
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        verification.show(found, new_console(sys.stdout))
    return found.exit_code


@command(
    "openssl genpkey -algorithm ed25519 -out release.pem",
    "quail sign .quail/runs/20260101-120000-ab12 --key release.pem",
)
def sign(
    run: RunOrReport,
    key: Annotated[
        Path,
        typer.Option(help="Private Ed25519 key, PEM or OpenSSH. Needs the extra sign.", metavar="FILE"),
    ],
) -> int:
    """Sign an audit's report and events. The signature goes into its own file beside the report.

    A report that does not match its events is not signed. quail verify RUN --public-key FILE checks the signature.
    """
    from quail_audit.runs.integrity.verify import sign as sign_run

    def ask() -> str | None:
        return typer.prompt("passphrase", hide_input=True, err=True) if sys.stdin.isatty() else None

    typer.echo(f" signature: {plain(str(sign_run(run, key, ask)))}", err=True)
    return 0
