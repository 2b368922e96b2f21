"""`quail recipe`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.attribute import draw_curve
from quail_audit.cli.running import run_and_show, worst_scheme


def recipe(
    run: Annotated[Path, typer.Argument(help="The run folder of an audit that quail attribute was run on.")],
    scheme: Annotated[
        str | None, typer.Option(help="One of the audit's schemes. Default: the one that brings most back.")
    ] = None,
    max_recovery: Annotated[
        float,
        typer.Option(help="Of the fall of the forget loss, in per cent: what may still come back.", min=0, max=100),
    ] = 10.0,
    batch_size: Annotated[int | None, typer.Option(help="Texts at once. Default: by the memory.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    run_dir: Annotated[
        Path | None, typer.Option(help="The recipe's own folder. Default: in RUN, under cures.", metavar="DIR")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Say which layers to leave in 8 or 16 bits so that the memory stays away, and what that costs in bytes.

    Spares layers in the order that quail attribute found, and measures what still comes back. Writes recipe.json, with
    the skip modules of a BitsAndBytesConfig and GPTQModel's dynamic configuration, and recipe.svg, the curve.
    """
    from quail_audit.engine.cures.recipe import make_recipe as events_of
    from quail_audit.schema.requests import RecipeRequest

    request = RecipeRequest(
        run=str(run),
        scheme=scheme or worst_scheme(run),
        max_recovery_percent=max_recovery,
        batch_size=batch_size,
        seed=seed,
    )
    command = ("quail", *sys.argv[1:])
    return run_and_show(
        request,
        lambda run_id, folder: events_of(request, run_id, command, folder),
        run,
        run_dir,
        quiet=quiet,
        draw=draw_curve,
    )


recipe.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n  quail recipe .quail/runs/20260101-120000-ab12\n\n"
    "  quail recipe .quail/runs/20260101-120000-ab12 --scheme nf4 --max-recovery 5"
)
