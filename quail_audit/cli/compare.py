"""`quail compare`: show what changed between two audits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import Output, Run
from quail_audit.cli.output import ComparisonFormat, open_results
from quail_audit.reports.text.console import new_console


@command(
    "quail compare .quail/runs/20260101-120000-ab12 .quail/runs/20260102-090000-cd34",
    "quail compare before/ after/ --format markdown --output comment.md",
)
def compare(
    before: Run,
    after: Annotated[Path, typer.Argument(help="Run folder of a later audit.", show_default=False)],
    format: Annotated[ComparisonFormat, typer.Option(help="Output format.")] = "text",  # noqa: A002
    output: Output = None,
) -> int:
    """Show what changed between two audits: which schemes, scores and layers are better, worse or the same.

    Two scores are the same if their intervals overlap. The exit code is 0 if the audits could be compared.
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
