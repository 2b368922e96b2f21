"""`quail compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import reports_errors
from quail_audit.cli.output import ComparisonFormat, new_console, open_results


@app.command(
    epilog="Examples:\n\n"
    "  quail compare .quail/runs/20260101-120000-ab12 .quail/runs/20260102-090000-cd34\n\n"
    "  quail compare before/ after/ --format markdown --output comment.md"
)
@reports_errors
def compare(
    before: Annotated[Path, typer.Argument(help="The folder of an audit's run.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="That of a later one.", show_default=False)],
    format: Annotated[ComparisonFormat, typer.Option(help="Of the result.")] = "text",  # noqa: A002
    output: Annotated[
        Path | None, typer.Option(help="Write the result here instead of to stdout.", metavar="FILE")
    ] = None,
) -> int:
    """Say what two audits found differently: which formats, scores and layers are better, worse or the same.

    Two scores are the same where their intervals overlap. The exit code is 0 where they could be compared.
    """
    from pydantic import TypeAdapter

    from quail_audit.reports import comparison
    from quail_audit.runs.folder import read_report
    from quail_audit.verdict.comparison import Comparison
    from quail_audit.verdict.comparison import compare as compared

    found = compared(read_report(before), read_report(after))
    with open_results(output) as results:
        if format == "json":
            results.write(TypeAdapter(Comparison).dump_json(found, indent=2).decode() + "\n")
        elif format == "markdown":
            results.write(comparison.render_markdown(found))
        else:
            comparison.show(found, new_console(results))
    return 0
