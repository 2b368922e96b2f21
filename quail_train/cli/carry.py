"""`quail carry`: reads the options, runs the carry into its folder, shows it. Imports nothing heavy at the top."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from quail_audit.core.errors import UsageError


def carry(
    original: Annotated[str, typer.Argument(help="A local folder or a Hugging Face id: the model before unlearning.")],
    unlearned: Annotated[str, typer.Argument(help="The same, after unlearning; or a LoRA adapter on the original.")],
    out: Annotated[str, typer.Option(help="Where the carried checkpoint goes.", metavar="DIR")],
    scheme: Annotated[
        str | None, typer.Option(help="How the model will be quantized. See quail schemes.", metavar="NAME")
    ] = None,
    way: Annotated[
        str | None,
        typer.Option(
            help="How codes are chosen. calibrated (default with --calibrate): so that the layers' outputs on the "
            "texts change least. random (default without): unbiased, by a seeded draw. feedback: to nearest, each "
            "row's error carried on.",
            metavar="calibrated|random|feedback",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Texts to calibrate on: a data folder, whose retain set is taken, or a .txt or .jsonl file. Any will "
            "do; some of what the model must keep are best.",
            metavar="TEXTS",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Which layers are carried; repeat for several. Default: erased, as measured. All others stay as they "
            "are, to the last bit.",
            metavar="erased|all|at-risk|block:3-7|role:down_proj|name:GLOB",
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option(help="The run folder of an audit: which layers are at risk.", metavar="RUN")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws.", min=0)] = None,
    copy_4bit: Annotated[
        str | None,
        typer.Option(
            "--copy-4bit",
            help="Also write the result packed to nf4 or fp4, as bitsandbytes stores them and transformers loads them.",
            metavar="DIR",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="The run's own folder, made by the run. Default: .quail/runs/<run id>.", metavar="DIR"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Repair an unlearned checkpoint without training, where rounding erased its update.

    The result is an ordinary checkpoint whose weights sit on the scheme's grid, so that anyone's rounding to nearest
    gives back exactly these codes, and with them the update. docs/cures.md says when this helps, and when it does not.
    """
    from pydantic import ValidationError

    from quail_audit.schema.requests import CarryRequest

    given = {
        "scheme": scheme,
        "way": way if way is not None or calibrate is None else "calibrated",
        "calibrate": calibrate,
        "layers": tuple(dict.fromkeys(layers)) if layers else None,
        "report": report,
        "seed": seed,
        "copy_4bit": copy_4bit,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        request = CarryRequest(original=original, unlearned=unlearned, out=out, **chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(first["msg"], where=f"--{first['loc'][0]}", mend="See quail carry --help") from error
    if (request.way == "calibrated") != (request.calibrate is not None):
        raise UsageError(
            f"--way {request.way} and --calibrate do not go together"
            if request.calibrate is not None
            else "the calibrated way needs texts",
            mend="Give --calibrate TEXTS with --way calibrated, and with no other",
        )
    command = ("quail", *sys.argv[1:])
    return carry_and_show(request, command=command, run_dir=run_dir, overwrite=overwrite, quiet=quiet)


carry.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n"
    "  quail carry original/ unlearned/ --out carried/\n\n"
    "  quail carry original/ unlearned/ --out carried/ --calibrate data/\n\n"
    "  quail carry original/ unlearned/ --out carried/ --way feedback --layers block:3-7 --scheme fp4\n\n"
    "  quail carry original/ unlearned/ --out carried/ --copy-4bit carried-nf4/"
)


def carry_and_show(
    request: Any, *, command: tuple[str, ...], run_dir: Path | None = None, overwrite: bool = False, quiet: bool = False
) -> int:
    """Run a carry into its folder, show it as it goes and its result at the end; return its exit code.

    Raises:
        QuailError: the run could not be finished; what was done is in its folder.
    """
    from quail_audit.cli.output import new_console
    from quail_audit.cli.running import follow
    from quail_audit.reports.text.cure import show
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id
    from quail_audit.runs.record import record
    from quail_audit.runs.state.cure import CureState
    from quail_train.carry.run import carry as events_of
    from quail_train.output.checkpoint import check_free

    check_free(Path(request.out), overwrite=overwrite)
    if request.copy_4bit is not None:
        check_free(Path(request.copy_4bit), overwrite=overwrite, option="--copy-4bit")
        if Path(request.copy_4bit).resolve() == Path(request.out).resolve():
            raise UsageError("is the folder of --out", where="--copy-4bit", mend="Name another folder")
    run_id = new_run_id()
    with (
        new_run(run_dir or RUNS_FOLDER / run_id, request) as folder,
        closing(record(events_of(request, run_id, command), folder)) as events,
    ):
        state = follow(events, None if quiet else sys.stderr, None)
    assert isinstance(state, CureState)  # noqa: S101 - its first event says so
    show(state.report(), new_console(sys.stdout))
    typer.echo(f" run folder: {folder}", err=True)
    assert state.end is not None  # noqa: S101 - a run without an end raises
    return state.end.exit_code
