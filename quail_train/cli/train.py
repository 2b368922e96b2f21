"""`quail train`: retrain an unlearned checkpoint so that its forgetting survives."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import (
    AuditOfLayers,
    DeployedScheme,
    LabelColumn,
    Original,
    Overwrite,
    Quiet,
    RunDir,
    TextColumn,
    Unlearned,
)
from quail_audit.cli.running import run_and_show
from quail_audit.core.errors import UsageError
from quail_train.training.request import request_of

if TYPE_CHECKING:
    from quail_audit.schema.requests import TrainRequest
    from quail_train.training.work import Stop


@command(
    "quail train original/ unlearned/ --data data/ --out repaired/ --objective repair --layers at-risk --report RUN",
    "quail train original/ unlearned/ --data data/ --out tuned/ --margin auto --layers block:3-7",
    # options that are not listed are those of transformers' Trainer
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def train(
    context: typer.Context,
    original: Original,
    unlearned: Unlearned,
    data: Annotated[
        str,
        typer.Option(
            help="Data folder in MUSE layout, or a classifier's, with the forget set and the retain set.",
            metavar="PATH",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for the retrained checkpoint.", metavar="DIR")],
    objective: Annotated[
        str,
        typer.Option(
            help="Objective to minimise: ga, npo, simnpo, relabel (classifiers) or hinge, then _gdr or _klr, then any "
            "of _l1, _hinge, _sure, _lora; or repair, sure, lora. ga_gdr_l1_hinge is the paper's.",
            metavar="NAME",
        ),
    ] = "ga_gdr_l1_hinge",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers to train; repeat for several. All others stay as they are, to the last bit.",
            metavar="all|at-risk|block:3-7|role:down_proj|name:GLOB",
        ),
    ] = None,
    report: AuditOfLayers = None,
    init: Annotated[
        str | None, typer.Option(help="Checkpoint to start training from.", metavar="unlearned|original")
    ] = None,
    hinge: Annotated[
        str | None,
        typer.Option(
            help="Distance that the hinge measures.", metavar="per-logit|centred|log-probability|l1|l2|true-token"
        ),
    ] = None,
    hinge_precision: Annotated[
        str | None,
        typer.Option(help="Weights that the hinge sees: as they are, or rounded.", metavar="full|quantized"),
    ] = None,
    hinge_weight: Annotated[float | None, typer.Option(help="Weight of the hinge (lambda).", min=0.0)] = None,
    retain_weight: Annotated[float | None, typer.Option(help="Weight of the retain term (alpha).", min=0.0)] = None,
    l1_weight: Annotated[float | None, typer.Option(help="Weight of the L1 norm of the update (mu).", min=0.0)] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Margin of the hinge (gamma), in logits. auto is the paper's: half the quantization step, mostly far "
            "too small to matter; see docs/training.md.",
            metavar="auto|X",
        ),
    ] = None,
    margin_scale: Annotated[float | None, typer.Option(help="Factor on the margin.")] = None,
    scheme: DeployedScheme = None,
    forget_loss_cap: Annotated[
        float | None, typer.Option(help="Loss in nats above which gradient ascent leaves a token alone.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the forget set.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Number of steps, instead of --epochs.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="AdamW learning rate.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Forget samples in a step, over all processes; as many retain samples are added.", min=1),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest training sample, in tokens.", min=8)] = None,
    eval_steps: Annotated[
        int | None, typer.Option(help="Steps between scores of the model, as it is and rounded.", min=1)
    ] = None,
    target_forget: Annotated[
        float | None,
        typer.Option(help="Stop once the rounded model's VerbMem (or KnowMem) on the forget set is at most this."),
    ] = None,
    target_retain: Annotated[
        float | None, typer.Option(help="With --target-forget: and once that on the retain set is at least this.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="How to get the original's logits: run it, run it in 4 bits, or precompute them.",
            metavar="full|4bit|precomputed",
        ),
    ] = None,
    reference_top_k: Annotated[
        int | None, typer.Option(help="Logits kept for each token if they are precomputed.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for the order of the samples.", min=0)] = None,
    device: Annotated[str | None, typer.Option(help="Device to train on.", metavar="auto|cpu|cuda[:N]|mps")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the weights while training. auto: float32. bfloat16 loses small updates; mixed precision is "
            "--bf16.",
            metavar="auto|float32|bfloat16",
        ),
    ] = None,
    resume_from_checkpoint: Annotated[
        str | None, typer.Option(help="Resume from a checkpoint that an earlier run left in --out.", metavar="DIR")
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Audit the result at the end with the options of --report, and exit with the audit's verdict.",
        ),
    ] = False,
    run_dir: RunDir = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> int:
    """Retrain an unlearned checkpoint so that its forgetting survives quantization.

    Only the chosen layers are trained. The result is an ordinary checkpoint. Ctrl-C saves a checkpoint to resume from.
    Options that are not listed here are those of transformers' Trainer: --bf16, --gradient-accumulation-steps 4,
    --lr-scheduler-type cosine, --save-steps 100, --report-to tensorboard, --fsdp full_shard …
    """
    given = {
        "objective": objective,
        "text_column": text_column,
        "label_column": label_column,
        "layers": tuple(dict.fromkeys(layers)) if layers else None,
        "report": report,
        "init": init,
        "hinge": hinge,
        "hinge_precision": hinge_precision,
        "hinge_weight": hinge_weight,
        "retain_weight": retain_weight,
        "l1_weight": l1_weight,
        "margin_scale": margin_scale,
        "scheme": scheme,
        "forget_loss_cap": forget_loss_cap,
        "epochs": epochs,
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_length": max_length,
        "eval_steps": eval_steps,
        "target_forget": target_forget,
        "target_retain": target_retain,
        "reference": reference,
        "reference_top_k": reference_top_k,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "resume_from_checkpoint": resume_from_checkpoint,
        "audit": audit or None,
        "trainer": trainer_options(context.args) or None,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if margin is not None:
        chosen["margin_logits"] = None if margin == "auto" else margin
    request = request_of(original=original, unlearned=unlearned, data=data, out=out, **chosen)
    typed = ("quail", *sys.argv[1:])
    return run_training(request, typed=typed, run_dir=run_dir, overwrite=overwrite, quiet=quiet)


def trainer_options(extra: list[str]) -> dict[str, str]:
    """Return options of transformers' Trainer by their names there: --bf16 --save-steps 100 -> {"bf16": "True", …}.

    Raises:
        UsageError: something that is no option.
    """
    found: dict[str, str] = {}
    rest = list(extra)
    while rest:
        option = rest.pop(0)
        name, equals, value = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not name:
            raise UsageError(f"unexpected argument {option!r}", mend="See quail train --help")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
        found[name.replace("-", "_")] = value
    return found


def run_training(
    request: TrainRequest,
    *,
    typed: tuple[str, ...],
    run_dir: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Run a training into its folder, show it as it goes and its result at the end; return its exit code.

    If several processes train together, one of them writes and shows.

    Args:
        request: what to train.
        typed: the command line, which the run records.
        run_dir: folder for the run. None: a new one under RUNS_FOLDER.
        overwrite: replace what is in the folder of the result.
        quiet: show no progress.

    Raises:
        QuailError: the run could not be finished; what was done is in its folder.
    """
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id
    from quail_train.output.checkpoint import check_free
    from quail_train.training.processes import is_main_process
    from quail_train.training.run import train as events_of
    from quail_train.training.work import Stop

    stop = Stop()
    run_id = new_run_id()
    with _stop_gently(stop):
        if not is_main_process():
            with TemporaryDirectory() as own:
                for _ in events_of(request, run_id, typed, stop, Path(own)):
                    pass
            return 0
        if request.resume_from_checkpoint is None:
            check_free(Path(request.out), overwrite=overwrite)
        folder = run_dir or RUNS_FOLDER / run_id
        return run_and_show(request, events_of(request, run_id, typed, stop, folder), folder, quiet=quiet)


@contextmanager
def _stop_gently(stop: Stop) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM in the middle of the steps end them with a checkpoint; any other ends at once."""

    def interrupt(_signal: int, _frame: object) -> None:
        if stop.in_steps and not stop.asked:
            stop.asked = True
            typer.echo("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once", err=True)
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
