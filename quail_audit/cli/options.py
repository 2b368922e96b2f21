"""Options that several commands share, as types of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.output import OutputFormat

_ORIGINAL = typer.Argument(
    help="Original model: a local folder or a Hugging Face id (org/name or org/name@revision).", show_default=False
)
_UNLEARNED = typer.Argument(help="Unlearned model: the same, or a LoRA adapter on the original.", show_default=False)

Original = Annotated[str, _ORIGINAL]
Unlearned = Annotated[str, _UNLEARNED]
OriginalOrNone = Annotated[str | None, _ORIGINAL]
UnlearnedOrNone = Annotated[str | None, _UNLEARNED]

Run = Annotated[Path, typer.Argument(help="Run folder of an audit.", show_default=False)]
RunOrReport = Annotated[Path, typer.Argument(help="Run folder of an audit, or its report.json.", show_default=False)]

TextColumn = Annotated[
    str | None, typer.Option(help="Text column of a classifier's data. Default: text or tweet.", metavar="NAME")
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Label column of a classifier's data. Default: label.", metavar="NAME")
]
DeployedScheme = Annotated[
    str | None,
    typer.Option(help="Scheme that the model will be quantized with; quail schemes lists them.", metavar="NAME"),
]
AuditedScheme = Annotated[
    str | None, typer.Option(help="Scheme of the audit to look at. Default: its worst one.", metavar="NAME")
]
AuditOfLayers = Annotated[
    str | None, typer.Option(help="Run folder of the audit that says which layers are at risk.", metavar="RUN")
]
BootstrapSeed = Annotated[int, typer.Option(help="Random seed for the bootstrap.", min=0)]
TextsAtOnce = Annotated[int | None, typer.Option(help="Texts at once. Default: as many as fit in memory.", min=1)]

RunDir = Annotated[
    Path | None, typer.Option(help="New folder for the run. Default: .quail/runs/<run id>.", metavar="DIR")
]
CureDir = Annotated[
    Path | None, typer.Option(help="New folder for the run. Default: RUN/cures/<run id>.", metavar="DIR")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")]
Format = Annotated[OutputFormat, typer.Option(help="Output format.")]
Output = Annotated[Path | None, typer.Option(help="Write the result to this file, not to stdout.", metavar="FILE")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
