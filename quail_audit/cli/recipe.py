"""`quail recipe`: choose the layers to leave in 8 or 16 bits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.attribute import cure_folder, worst_scheme
from quail_audit.cli.options import AuditedScheme, BootstrapSeed, CureDir, Quiet, TextsAtOnce
from quail_audit.cli.running import run_and_show

if TYPE_CHECKING:
    from quail_audit.reports.formats import AnyReport


@command(
    "quail recipe .quail/runs/20260101-120000-ab12",
    "quail recipe .quail/runs/20260101-120000-ab12 --scheme nf4 --max-recovery 5",
)
def recipe(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder of an audit that quail attribute has been run on.", show_default=False),
    ],
    scheme: AuditedScheme = None,
    max_recovery: Annotated[
        float,
        typer.Option(help="Recovery that may remain, in percent of the drop in forget loss.", min=0, max=100),
    ] = 10.0,
    batch_size: TextsAtOnce = None,
    seed: BootstrapSeed = 0,
    run_dir: CureDir = None,
    quiet: Quiet = False,
) -> int:
    """Choose the layers to leave in 8 or 16 bits so that the memory stays away, and show what that costs in bytes.

    Spares layers in the order that quail attribute found, and measures what still comes back. Writes recipe.json, with
    the skip modules of a BitsAndBytesConfig and GPTQModel's dynamic configuration, and recipe.svg, the curve.
    """
    from quail_audit.engine.cures.recipe import make_recipe as events_of
    from quail_audit.runs.names import new_run_id
    from quail_audit.schema.requests import RecipeRequest

    request = RecipeRequest(
        run=str(run),
        scheme=scheme or worst_scheme(run),
        max_recovery_percent=max_recovery,
        batch_size=batch_size,
        seed=seed,
    )
    run_id = new_run_id()
    folder = run_dir or cure_folder(run, run_id, "recipe")
    events = events_of(request, run_id, ("quail", *sys.argv[1:]), folder)
    return run_and_show(request, events, folder, quiet=quiet, draw=draw_curve)


def draw_curve(report: AnyReport, folder: Path) -> None:
    """Write recipe.svg; a recipe that measured no point has no curve."""
    from quail_audit.core.writing import write_whole
    from quail_audit.reports import recipe_svg
    from quail_audit.schema.report import CureReport
    from quail_audit.schema.requests import RecipeRequest

    if isinstance(report, CureReport) and report.points and isinstance(report.request, RecipeRequest):
        chosen = report.chosen.point if report.chosen else None
        curve = recipe_svg.render(report.points, chosen, report.request.max_recovery_percent)
        write_whole(folder / "recipe.svg", curve)
