"""`quail report` and `quail schema`: write a report in any format, and its JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import Format, Output
from quail_audit.cli.output import open_results


@command(
    "quail report .quail/runs/20260101-120000-ab12",
    "quail report .quail/runs/20260101-120000-ab12 --format markdown --output comment.md",
    "quail report .quail/runs/20260101-120000-ab12 --figures figures/ --model-card unlearned/README.md",
)
def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of an audit, or its report.json, of any version of Quail; the latter has no samples.",
            show_default=False,
        ),
    ],
    format: Format = "text",  # noqa: A002
    output: Output = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Also draw figures for a paper into this folder, each as SVG and PNG. Needs the extra figures.",
            metavar="DIR",
        ),
    ] = None,
    model_card: Annotated[
        Path | None,
        typer.Option(
            help="Also put the results into the metadata of this model card; the rest of the card stays.",
            metavar="README.md",
        ),
    ] = None,
) -> int:
    """Write the report of a finished audit in any format.

    The exit code is 0 if the report was written, whatever its verdict.
    """
    from quail_audit.reports.formats import write_report
    from quail_audit.runs.folder import read_report

    found = read_report(run)
    with open_results(output) as results:
        write_report(found, format, results, run if run.is_dir() else None)
    if figures is not None:
        from quail_audit.reports.figures import write_figures

        for path in write_figures(found, figures):
            typer.echo(f" figure: {path}", err=True)
    if model_card is not None:
        from quail_audit.reports.model_card import write_model_card

        write_model_card(found, model_card)
        typer.echo(f" model card: {model_card}", err=True)
    return 0


@command()
def schema() -> int:
    """Print the JSON Schema of report.json, which quail audit writes into the run folder and with --format json."""
    from quail_audit.runs.report_file import read_schema

    typer.echo(read_schema(), nl=False)
    return 0
