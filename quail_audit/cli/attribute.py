"""`quail attribute`, `recipe` and `prescribe`: read the options, run what was asked for, show it. Imports no torch."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.cli.running import run_and_show, worst_scheme
from quail_audit.core.errors import UsageError

if TYPE_CHECKING:
    from quail_audit.schema.report import CureReport


def attribute(
    run: Annotated[Path, typer.Argument(help="The run folder of an audit with data.", show_default=False)],
    scheme: Annotated[
        str | None, typer.Option(help="One of the audit's schemes. Default: the one that brings most back.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Stop after so many passes over the forget texts, or so long: 40, 90s, 10m.", metavar="N|Ns|Nm"
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts at once. Default: by the memory.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    run_dir: Annotated[
        Path | None, typer.Option(help="The attribution's own folder. Default: in RUN, under cures.", metavar="DIR")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Say which layers bring the memory back when the model is rounded.

    Rounds one block, one role, then one layer at a time, and all but it, and measures what the loss on the forget texts
    does. Weights are swapped in one loaded model.
    """
    from quail_audit.engine.cures.attribution import attribute as events_of
    from quail_audit.schema.requests import AttributeRequest

    passes, seconds = read_budget(budget)
    request = AttributeRequest(
        run=str(run),
        scheme=scheme or worst_scheme(run),
        budget_passes=passes,
        budget_s=seconds,
        batch_size=batch_size,
        seed=seed,
    )
    command = ("quail", *sys.argv[1:])
    return run_and_show(request, lambda run_id, _: events_of(request, run_id, command), run, run_dir, quiet=quiet)


attribute.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n  quail attribute .quail/runs/20260101-120000-ab12\n\n"
    "  quail attribute .quail/runs/20260101-120000-ab12 --scheme nf4 --budget 10m"
)


def draw_curve(report: CureReport, folder: Path) -> None:
    """Write recipe.svg; a recipe that measured no point has no curve."""
    from quail_audit.core.writing import write_whole
    from quail_audit.reports import recipe_svg
    from quail_audit.schema.requests import RecipeRequest

    if report.points and isinstance(report.request, RecipeRequest):
        chosen = report.chosen.point if report.chosen else None
        write_whole(
            folder / "recipe.svg", recipe_svg.render(report.points, chosen, report.request.max_recovery_percent)
        )


def read_budget(text: str | None) -> tuple[int | None, float | None]:
    """(passes, seconds) of --budget, one of them None.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None, None
    found = re.fullmatch(r"([1-9]\d{0,8})([sm]?)", text)
    if found is None:
        raise UsageError(
            f"cannot read {text!r}", where="--budget", mend="Give passes, seconds or minutes: 40, 90s, 10m"
        )
    number = int(found[1])
    return (number, None) if not found[2] else (None, number * (60.0 if found[2] == "m" else 1.0))
