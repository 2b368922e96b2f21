"""`quail attribute` and `quail recipe`: read the options, run what was asked for, show it. Import nothing heavy."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from quail_audit.events import AttributeRequest, Event, RecipeRequest

CURES_FOLDER = "cures"  # in an audit's run folder: runs of what was asked about it


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
    from quail_audit.cures.attribution import attribute as events_of
    from quail_audit.events import AttributeRequest

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
    from quail_audit.cures.recipe import recipe as events_of
    from quail_audit.events import RecipeRequest

    request = RecipeRequest(
        run=str(run),
        scheme=scheme or worst_scheme(run),
        max_recovery_percent=max_recovery,
        batch_size=batch_size,
        seed=seed,
    )
    command = ("quail", *sys.argv[1:])
    return run_and_show(
        request, lambda run_id, folder: events_of(request, run_id, command, folder), run, run_dir, quiet=quiet
    )


recipe.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n  quail recipe .quail/runs/20260101-120000-ab12\n\n"
    "  quail recipe .quail/runs/20260101-120000-ab12 --scheme nf4 --max-recovery 5"
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


def worst_scheme(run: Path) -> str:
    """The audit's scheme under which most comes back.

    Raises:
        BadInputError: the run measured no recovery.
    """
    from quail_audit.runs import read_report

    report = read_report(run)
    percents = {
        name: max((found.percent for found in scheme.recovery.values() if found.percent is not None), default=-1.0)
        for name, scheme in report.schemes.items()
    }
    if not percents or max(percents.values()) < 0.0:
        raise BadInputError(
            "the audit measured no recovery", where=str(run), mend="Name a scheme with --scheme, or audit with --data"
        )
    return max(percents, key=lambda name: percents[name])


def run_and_show(
    request: AttributeRequest | RecipeRequest,
    events_of: Callable[[str, Path], Iterator[Event]],
    audited: Path,
    run_dir: Path | None,
    *,
    quiet: bool,
) -> int:
    """Run it into its folder, show it as it goes and its result at the end; return its exit code."""
    from quail_audit.cli import follow, new_console
    from quail_audit.curing import CureState
    from quail_audit.reports.cure_text import show
    from quail_audit.runs import new_run, new_run_id, record

    run_id = new_run_id()
    with (
        new_run(run_dir or audited / CURES_FOLDER / f"{run_id}-{request.cure}", request) as folder,
        closing(record(events_of(run_id, folder), folder)) as events,
    ):
        state = follow(events, None if quiet else sys.stderr, None)
    assert isinstance(state, CureState)  # noqa: S101 - its first event says so
    show(state.report(), new_console(sys.stdout))
    typer.echo(f" run folder: {folder}", err=True)
    assert state.end is not None  # noqa: S101 - a run without an end raises
    return state.end.exit_code
