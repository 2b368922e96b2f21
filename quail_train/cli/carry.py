"""`quail carry`: repair an unlearned checkpoint without training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import AuditOfLayers, DeployedScheme, Original, Overwrite, Quiet, RunDir, Unlearned
from quail_audit.cli.running import run_and_show
from quail_audit.core.errors import UsageError

if TYPE_CHECKING:
    from quail_audit.schema.requests import CarryRequest


@command(
    "quail carry original/ unlearned/ --out carried/",
    "quail carry original/ unlearned/ --out carried/ --calibration data/",
    "quail carry original/ unlearned/ --out carried/ --way feedback --layers block:3-7 --scheme fp4",
    "quail carry original/ unlearned/ --out carried/ --copy-4bit carried-nf4/",
)
def carry(
    original: Original,
    unlearned: Unlearned,
    out: Annotated[str, typer.Option(help="Folder for the carried checkpoint.", metavar="DIR")],
    scheme: DeployedScheme = None,
    way: Annotated[
        str | None,
        typer.Option(
            help="How to choose codes. calibrated (default with --calibration): so that the layers' outputs on the "
            "texts change least. random (default without): unbiased, by a seeded draw. feedback: to nearest, with each "
            "row's error carried on.",
            metavar="calibrated|random|feedback",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            "--calibrate",  # the older name
            help="Texts to calibrate on: a data folder, whose retain set is taken, or a .txt or .jsonl file. Any texts "
            "will do; texts that the model must keep are best.",
            metavar="TEXTS",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers to carry; repeat for several. Default: erased, as measured. All others stay as they are, to "
            "the last bit.",
            metavar="erased|all|at-risk|block:3-7|role:down_proj|name:GLOB",
        ),
    ] = None,
    report: AuditOfLayers = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for the draws.", min=0)] = None,
    copy_4bit: Annotated[
        str | None,
        typer.Option(
            "--copy-4bit",
            help="Folder for a second copy, packed to nf4 or fp4 as bitsandbytes stores and transformers loads them.",
            metavar="DIR",
        ),
    ] = None,
    run_dir: RunDir = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> int:
    """Repair an unlearned checkpoint whose update rounding erased, without training.

    The result is an ordinary checkpoint whose weights sit on the scheme's grid, so that anyone's rounding to nearest
    gives back exactly these codes, and with them the update. docs/cures.md says when this helps, and when it does not.
    """
    from pydantic import ValidationError

    from quail_audit.schema.command_line import invalid_option
    from quail_audit.schema.requests import CarryRequest

    given = {
        "scheme": scheme,
        "way": way if way is not None or calibration is None else "calibrated",
        "calibrate": calibration,
        "layers": tuple(dict.fromkeys(layers)) if layers else None,
        "report": report,
        "seed": seed,
        "copy_4bit": copy_4bit,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        request = CarryRequest(original=original, unlearned=unlearned, out=out, **chosen)
    except ValidationError as error:
        raise invalid_option(error, "quail carry") from error
    if (request.way == "calibrated") != (request.calibrate is not None):
        raise UsageError(
            f"--way {request.way} and --calibration do not go together"
            if request.calibrate is not None
            else "the calibrated way needs texts",
            mend="Give --calibration TEXTS with --way calibrated, and with no other",
        )
    typed = ("quail", *sys.argv[1:])
    return run_carry(request, typed=typed, run_dir=run_dir, overwrite=overwrite, quiet=quiet)


def run_carry(
    request: CarryRequest,
    *,
    typed: tuple[str, ...],
    run_dir: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Run a carry into its folder, show it as it goes and its result at the end; return its exit code.

    Raises:
        QuailError: the run could not be finished; what was done is in its folder.
    """
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id
    from quail_train.carry.run import carry as events_of
    from quail_train.output.checkpoint import check_free

    check_free(Path(request.out), overwrite=overwrite)
    if request.copy_4bit is not None:
        check_free(Path(request.copy_4bit), overwrite=overwrite, option="--copy-4bit")
        if Path(request.copy_4bit).resolve() == Path(request.out).resolve():
            raise UsageError("is the folder of --out", where="--copy-4bit", mend="Name another folder")
    run_id = new_run_id()
    return run_and_show(request, events_of(request, run_id, typed), run_dir or RUNS_FOLDER / run_id, quiet=quiet)
