"""`quail report` and `quail schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import reports_errors
from quail_audit.cli.output import OutputFormat, open_results, write_report
from quail_audit.core.errors import (
    UsageError,
)


@app.command(
    epilog="Examples:\n\n"
    "  quail report .quail/runs/20260101-120000-ab12\n\n"
    "  quail report .quail/runs/20260101-120000-ab12 --format markdown --output comment.md\n\n"
    "  quail report .quail/runs/20260101-120000-ab12 --figures figures/ --model-card unlearned/README.md"
)
@reports_errors
def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of an audit's run, or a report.json alone, of any Quail; it has no samples.",
            show_default=False,
        ),
    ],
    format: Annotated[OutputFormat, typer.Option(help="Of the report.")] = "text",  # noqa: A002
    output: Annotated[
        Path | None, typer.Option(help="Write the report here instead of to stdout.", metavar="FILE")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Besides, draw figures for a paper into this folder, each as SVG and PNG. Needs the extra figures.",
            metavar="DIR",
        ),
    ] = None,
    model_card: Annotated[
        Path | None,
        typer.Option(
            help="Besides, put the results into the metadata of this model card; all else in it stays.",
            metavar="README.md",
        ),
    ] = None,
) -> int:
    """Write the report of an audit that has been run, in any format.

    The exit code is 0 where the report was written, whatever its verdict is.
    """
    from quail_audit.runs.folder import read_report
    from quail_audit.runs.follow import replay
    from quail_audit.schema.events.lines import to_line

    found = read_report(run)
    if format == "jsonl" and run.is_file():
        raise UsageError("a report alone holds no events", where="--format jsonl", mend="Name the folder of the run")
    with open_results(output) as results:
        if format == "jsonl":
            results.writelines(to_line(event) + "\n" for event in replay(run))
        else:
            write_report(found, results, format, run if run.is_dir() else None)
    if figures is not None:
        from quail_audit.reports.figures import write_figures

        for path in write_figures(found, figures):
            typer.echo(f" figure: {path}", err=True)
    if model_card is not None:
        from quail_audit.reports.model_card import write_model_card

        write_model_card(found, model_card)
        typer.echo(f" model card: {model_card}", err=True)
    return 0


@app.command()
@reports_errors
def schema() -> int:
    """Print the JSON Schema of report.json, which quail audit writes into the run folder and with --format json."""
    from quail_audit.runs.report_file import read_schema

    typer.echo(read_schema(), nl=False)
    return 0
