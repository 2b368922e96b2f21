"""`quail verify` and `quail sign`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import plain, reports_errors
from quail_audit.cli.output import new_console


def _place_option(help: str, metavar: str = "DIR") -> Any:  # noqa: A002
    return typer.Option(help=f"{help} Default: where the audit read it.", metavar=metavar)


@app.command(
    epilog="Examples:\n\n"
    "  quail verify .quail/runs/20260101-120000-ab12\n\n"
    "  quail verify report.json --original models/llama --unlearned models/llama-unlearned --data muse-news\n\n"
    "  quail verify .quail/runs/20260101-120000-ab12 --public-key release.pub.pem --format json"
)
@reports_errors
def verify(
    run: Annotated[
        Path, typer.Argument(help="The folder of an audit's run, or a report.json alone.", show_default=False)
    ],
    original: Annotated[Path | None, _place_option("Where the original's files lie.")] = None,
    unlearned: Annotated[Path | None, _place_option("Where the unlearned checkpoint's files lie.")] = None,
    retrain: Annotated[Path | None, _place_option("Where the reference's files lie.")] = None,
    data: Annotated[Path | None, _place_option("Where the data lies.")] = None,
    calibration: Annotated[Path | None, _place_option("The texts that were calibrated on.", "FILE")] = None,
    policy: Annotated[Path | None, _place_option("The policy.", "FILE")] = None,
    baseline: Annotated[Path | None, _place_option("The run that it was held against.", "RUN")] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="The signer's Ed25519 key, PEM or OpenSSH: the run has to be signed by it. Needs the extra sign.",
            metavar="FILE",
        ),
    ] = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="Of the result.")] = "text",  # noqa: A002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Say whether anything of an audit has changed since: its report, its events, and every file that it read.

    The exit code is 0 where nothing has, 1 where something was changed, added or is missing, and 5 where nothing was
    found changed but not everything could be checked.
    """
    from quail_audit.cli.progress.reading import shown_reading
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
    with shown_reading(None if quiet else sys.stderr, "reading files") as progress:
        found = verified(run, given, public_key=public_key, progress=progress)
    if format == "json":
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        verification.show(found, new_console(sys.stdout))
    return found.exit_code


@app.command(
    epilog="Examples:\n\n"
    "  openssl genpkey -algorithm ed25519 -out release.pem\n\n"
    "  quail sign .quail/runs/20260101-120000-ab12 --key release.pem"
)
@reports_errors
def sign(
    run: Annotated[
        Path, typer.Argument(help="The folder of an audit's run, or a report.json alone.", show_default=False)
    ],
    key: Annotated[
        Path,
        typer.Option(help="An Ed25519 private key, PEM or OpenSSH. Needs the extra sign.", metavar="FILE"),
    ],
) -> int:
    """Sign an audit's report and events. The signature goes into a file of its own beside the report.

    What does not fit together is not signed. quail verify RUN --public-key FILE checks it.
    """
    from quail_audit.runs.integrity.verify import sign as signed

    def ask() -> str | None:
        return typer.prompt("passphrase", hide_input=True, err=True) if sys.stdin.isatty() else None

    typer.echo(f" signature: {plain(str(signed(run, key, ask)))}", err=True)
    return 0
