"""`quail train`: reads the options, runs the training into its folder, shows it. Imports nothing heavy at the top."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quail_audit.core.errors import UsageError
from quail_train.training.request import request_of

if TYPE_CHECKING:
    from quail_audit.schema.requests import TrainRequest
    from quail_train.training.work import Stop

# Options that quail_train does not know are transformers': they must get through to us.
CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(
    context: typer.Context,
    original: Annotated[str, typer.Argument(help="A local folder or a Hugging Face id: the model before unlearning.")],
    unlearned: Annotated[str, typer.Argument(help="The same, after unlearning; or a LoRA adapter on the original.")],
    data: Annotated[
        str,
        typer.Option(
            help="A data folder in MUSE layout, or a classifier's, with the forget and the retain set.", metavar="PATH"
        ),
    ],
    out: Annotated[str, typer.Option(help="Where the retrained checkpoint goes.", metavar="DIR")],
    objective: Annotated[
        str,
        typer.Option(
            help="What is minimised: ga, npo, simnpo, relabel (classifiers) or hinge, then _gdr or _klr, then any "
            "of _l1, _hinge, _sure, _lora; or repair, sure, lora. The paper's is ga_gdr_l1_hinge.",
            metavar="NAME",
        ),
    ] = "ga_gdr_l1_hinge",
    text_column: Annotated[
        str | None, typer.Option(help="Of a classifier's data. Default: text or tweet.", metavar="NAME")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Of a classifier's data. Default: label.", metavar="NAME")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Which layers are trained; repeat for several. All others stay as they are, to the last bit.",
            metavar="all|at-risk|block:3-7|role:down_proj|name:GLOB",
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option(help="The run folder of an audit: which layers are at risk.", metavar="RUN")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="The checkpoint that training begins with.", metavar="unlearned|original")
    ] = None,
    hinge: Annotated[
        str | None,
        typer.Option(
            help="How the hinge measures distance.", metavar="per-logit|centred|log-probability|l1|l2|true-token"
        ),
    ] = None,
    hinge_precision: Annotated[
        str | None,
        typer.Option(help="Whether the hinge sees the weights as they are, or rounded.", metavar="full|quantized"),
    ] = None,
    hinge_weight: Annotated[float | None, typer.Option(help="Lambda, of the hinge.", min=0.0)] = None,
    retain_weight: Annotated[float | None, typer.Option(help="Alpha, of the retain term.", min=0.0)] = None,
    l1_weight: Annotated[float | None, typer.Option(help="Mu, of the L1 norm of the update.", min=0.0)] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Gamma, in logits. auto is the paper's: half the quantization step, mostly far too small to matter; "
            "see docs/training.md.",
            metavar="auto|X",
        ),
    ] = None,
    margin_scale: Annotated[float | None, typer.Option(help="Multiplies the margin.")] = None,
    scheme: Annotated[
        str | None, typer.Option(help="How the model will be quantized. See quail schemes.", metavar="NAME")
    ] = None,
    forget_loss_cap: Annotated[
        float | None, typer.Option(help="Gradient ascent leaves tokens alone whose loss is above this, in nats.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the forget set.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Make so many steps instead.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Forget samples a step, over all processes; as many retain samples.", min=1),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Of a training sample, in tokens.", min=8)] = None,
    eval_steps: Annotated[
        int | None, typer.Option(help="Score the model, as it is and rounded, every so many steps.", min=1)
    ] = None,
    target_forget: Annotated[
        float | None,
        typer.Option(help="Stop once VerbMem (or KnowMem) of the forget set, rounded, is at or below this."),
    ] = None,
    target_retain: Annotated[float | None, typer.Option(help="And that of the retain set is at or above this.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="How the original's logits are had: by running it, running it in 4 bits, or computed beforehand.",
            metavar="full|4bit|precomputed",
        ),
    ] = None,
    reference_top_k: Annotated[
        int | None, typer.Option(help="Logits kept of each token where they are precomputed.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of the samples.", min=0)] = None,
    device: Annotated[str | None, typer.Option(help="Where it trains.", metavar="auto|cpu|cuda[:N]|mps")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the weights in training. auto: float32. bfloat16 loses small updates; mixed precision is --bf16.",
            metavar="auto|float32|bfloat16",
        ),
    ] = None,
    resume_from_checkpoint: Annotated[
        str | None, typer.Option(help="Go on from a checkpoint that an earlier run left in --out.", metavar="DIR")
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Audit the result at the end, as --report was made, and exit with its verdict.",
        ),
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="The run's own folder, made by the run. Default: .quail/runs/<run id>.", metavar="DIR"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Retrain an unlearned checkpoint so that its forgetting survives quantization.

    Only the chosen layers are trained. The result is an ordinary checkpoint. Ctrl-C saves a checkpoint to go on from.
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
    command = ("quail", *sys.argv[1:])
    return train_and_show(request, command=command, run_dir=run_dir, overwrite=overwrite, quiet=quiet)


train.context_settings = CONTEXT_SETTINGS  # type: ignore[attr-defined]
train.epilog = (  # type: ignore[attr-defined]
    "Examples:\n\n"
    "  quail train original/ unlearned/ --data data/ --out repaired/ --objective repair --layers at-risk "
    "--report RUN\n\n"
    "  quail train original/ unlearned/ --data data/ --out tuned/ --margin auto --layers block:3-7"
)


def trainer_options(extra: list[str]) -> dict[str, str]:
    """Options of transformers' Trainer by their names there: --bf16 --save-steps 100 -> {"bf16": "True", …}.

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


def train_and_show(
    request: TrainRequest,
    *,
    command: tuple[str, ...],
    run_dir: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Run a training into its folder, show it as it goes and its result at the end; return its exit code.

    Where several processes train together, one of them writes and shows.

    Raises:
        QuailError: the run could not be finished; what was done is in its folder.
    """
    from quail_audit.cli.output import new_console
    from quail_audit.cli.running import follow
    from quail_audit.reports.text.training import show
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id
    from quail_audit.runs.record import record
    from quail_audit.runs.state.training import TrainingState
    from quail_train.output.checkpoint import check_free
    from quail_train.training.processes import is_main_process
    from quail_train.training.run import train as events_of
    from quail_train.training.work import Stop

    stop = Stop()
    run_id = new_run_id()
    with _stopping_gently(stop):
        if not is_main_process():
            with TemporaryDirectory() as own:
                for _ in events_of(request, run_id, command, stop, Path(own)):
                    pass
            return 0
        if request.resume_from_checkpoint is None:
            check_free(Path(request.out), overwrite=overwrite)
        with (
            new_run(run_dir or RUNS_FOLDER / run_id, request) as folder,
            closing(record(events_of(request, run_id, command, stop, folder), folder)) as events,
        ):
            state = follow(events, None if quiet else sys.stderr, None)
    assert isinstance(state, TrainingState)  # noqa: S101 - its first event says so
    show(state.report(), new_console(sys.stdout))
    typer.echo(f" run folder: {folder}", err=True)
    assert state.end is not None  # noqa: S101 - a run without an end raises
    return state.end.exit_code


@contextmanager
def _stopping_gently(stop: Stop) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM in the middle of the steps ends them with a checkpoint; any other ends at once."""

    def interrupt(_signal: int, _frame: object) -> None:
        if stop.in_steps and not stop.asked:
            stop.asked = True
            typer.echo("stopping after this step, with a checkpoint; once more to stop at once", err=True)
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
