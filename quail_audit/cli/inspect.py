"""`quail inspect`: show what an audit would see in a checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import LabelColumn, Output, TextColumn
from quail_audit.cli.output import open_results
from quail_audit.reports.text.console import new_console


@command(
    "quail inspect unlearned/",
    "quail inspect adapter/ --base original/ --data data/",
    "quail inspect org/model --scheme nf4 --format json",
)
def inspect(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint: a local folder, a GGUF file or a Hugging Face id (org/name or org/name@revision).",
            show_default=False,
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Model that an adapter was trained on; its configuration and tokenizer stand in for missing ones.",
            metavar="BASE",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data folder, whose first samples are the prompts shown.", metavar="DIR")
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(help="Scheme to look at; may be given several times. Default: all.", metavar="NAME"),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="Output format.")] = "text",  # noqa: A002
    output: Output = None,
) -> int:
    """Show what an audit would see in a checkpoint: tensors, what schemes round, tokens, and prompts as they are asked.

    No weight is read and no model loaded, so this takes seconds. The exit code is 0 if the checkpoint can be opened.
    """
    from quail_audit.engine.forgetting.data.spellings import Columns
    from quail_audit.engine.inspection import inspect_checkpoint
    from quail_audit.reports.text import inspection

    found = inspect_checkpoint(
        checkpoint, base=base, data=data, schemes=tuple(scheme or ()), columns=Columns(text_column, label_column)
    )
    with open_results(output) as results:
        if format == "json":
            results.write(found.model_dump_json(indent=2) + "\n")
        else:
            inspection.show(found, new_console(results))
    return 0
