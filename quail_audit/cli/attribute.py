"""`quail attribute`, `recipe` and `prescribe`: read the options, run what was asked for, show it. Imports no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, UsageError

if TYPE_CHECKING:
    from quail_audit.schema.events.lines import Event
    from quail_audit.schema.report import CureReport, Report
    from quail_audit.schema.requests import AttributeRequest, RecipeRequest
    from quail_audit.verdict.prescription import Prescription


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
    from quail_audit.engine.cures.recipe import recipe as events_of
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
        draw=_draw_curve,
    )


recipe.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n  quail recipe .quail/runs/20260101-120000-ab12\n\n"
    "  quail recipe .quail/runs/20260101-120000-ab12 --scheme nf4 --max-recovery 5"
)


def prescribe(
    run: Annotated[Path, typer.Argument(help="The run folder of an audit.", show_default=False)],
    scheme: Annotated[
        str | None, typer.Option(help="One of the audit's schemes. Default: the one that brings most back.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the first cure and audit its result; exit with that audit's verdict.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Say what would repair an audited checkpoint: each cure that fits, why, its cost, and the command.

    An erased update can be carried, a drowned one carried with calibration or trained again, a few layers spared; what
    was not forgotten in full precision is mended by none of these.
    """
    from quail_audit.cli.main import new_console
    from quail_audit.reports.text.prescription import show
    from quail_audit.runs.attributions import units_measured
    from quail_audit.runs.folder import read_report
    from quail_audit.verdict.prescription import prescribe as advice_on

    report = read_report(run)
    chosen = scheme or _scheme_to_judge(report)
    if chosen not in report.schemes:
        raise UsageError(
            f"the audit did not measure {chosen}", where="--scheme", mend=f"It measured {', '.join(report.schemes)}"
        )
    advice = advice_on(report, str(run), chosen, is_attributed=bool(units_measured(run, chosen)))
    show(advice, new_console(sys.stdout))
    return _apply(advice.prescriptions[0], report, quiet=quiet) if apply and advice.prescriptions else 0


prescribe.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n  quail prescribe .quail/runs/20260101-120000-ab12\n\n"
    "  quail prescribe .quail/runs/20260101-120000-ab12 --apply"
)


def _scheme_to_judge(report: Report) -> str:
    """The scheme under which most comes back; without data, that of the most layers at risk."""

    def worst(name: str) -> tuple[float, int]:
        found = report.schemes[name]
        percents = [recovery.percent for recovery in found.recovery.values() if recovery.percent is not None]
        return max(percents, default=-1.0), sum(layer.at_risk for layer in found.layers)

    return max(report.schemes, key=worst)


def _apply(prescription: Prescription, before: Report, *, quiet: bool) -> int:
    """Run a cure's commands, audit what they made, and say what changed.

    Raises:
        QuailError: a command failed, or the audit could not be finished.
    """
    from quail_audit.cli.main import audit_and_show, new_console
    from quail_audit.reports.text.prescription import show_change
    from quail_audit.runs.folder import read_report
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id

    for command, shown in zip(prescription.commands, prescription.shown, strict=True):
        typer.echo(f"now: {shown}", err=True)
        done = subprocess.run([sys.executable, "-m", "quail_audit", *command[1:]], check=False)
        if done.returncode not in (0, 1, 5):  # a training's own audit may fail it
            raise EnvironmentProblemError(
                f"the cure ended with exit code {done.returncode}", where=shown, mend="Its message above says why"
            )
    (command,) = prescription.commands[:1]
    if "--out" not in command:  # nothing was made that could be audited
        return 0
    request = before.request.model_copy(update={"unlearned": command[command.index("--out") + 1]})
    run = RUNS_FOLDER / new_run_id()
    code = audit_and_show(request, run_dir=run, quiet=quiet)
    show_change(before, read_report(run), new_console(sys.stdout))
    return code


def _draw_curve(report: CureReport, folder: Path) -> None:
    """Write recipe.svg; a recipe that measured no point has no curve."""
    from quail_audit.core.writing import write_whole
    from quail_audit.reports.recipe_svg import pareto_plot
    from quail_audit.schema.requests import RecipeRequest

    if report.points and isinstance(report.request, RecipeRequest):
        chosen = report.chosen.point if report.chosen else None
        write_whole(folder / "recipe.svg", pareto_plot(report.points, chosen, report.request.max_recovery_percent))


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
    from quail_audit.runs.folder import read_report

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
    draw: Callable[[CureReport, Path], None] | None = None,
) -> int:
    """Run it into its folder, show it as it goes and its result at the end; return its exit code.

    draw: adds a picture of the report to the run's folder.
    """
    from quail_audit.cli.main import follow, new_console
    from quail_audit.reports.text.cure import show
    from quail_audit.runs.attributions import CURES_FOLDER
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.names import new_run_id
    from quail_audit.runs.record import record
    from quail_audit.runs.state.cure import CureState

    run_id = new_run_id()
    with (
        new_run(run_dir or audited / CURES_FOLDER / f"{run_id}-{request.cure}", request) as folder,
        closing(record(events_of(run_id, folder), folder)) as events,
    ):
        state = follow(events, None if quiet else sys.stderr, None)
    assert isinstance(state, CureState)  # noqa: S101 - its first event says so
    report = state.report()
    if draw is not None:
        draw(report, folder)
    show(report, new_console(sys.stdout))
    typer.echo(f" run folder: {folder}", err=True)
    assert state.end is not None  # noqa: S101 - a run without an end raises
    return state.end.exit_code
