"""`quail audit`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import reports_errors
from quail_audit.cli.output import OutputFormat
from quail_audit.cli.running import audit_and_show, resume_and_show
from quail_audit.core.errors import (
    UsageError,
)

CheckpointArgument = typer.Argument(
    help="A local folder or a Hugging Face id (org/name or org/name@revision).", show_default=False
)


@app.command(
    epilog="Examples:\n\n"
    "  quail audit org/llama-news org/llama-news-unlearned --data muse-news\n\n"
    "  quail audit original/ unlearned/ --data data/ --retrain retrain/ --scheme nf4 --scheme fp4 --format json\n\n"
    "  quail audit original/ unlearned/ --data data/ --scheme gptq-int4-g128 --calibration texts.jsonl\n\n"
    "  quail audit --resume .quail/runs/20260101-120000-ab12"
)
@reports_errors
def audit(
    context: typer.Context,
    original: Annotated[str | None, CheckpointArgument] = None,
    unlearned: Annotated[
        str | None, typer.Argument(help="The same, or a LoRA adapter folder on the original.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A data folder in MUSE layout, or a classifier's forget, retain, test and holdout as .csv or .jsonl. "
            "Without it only the weights are measured.",
            metavar="PATH",
        ),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Of a classifier's data. Default: text or tweet.", metavar="NAME")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Of a classifier's data. Default: label.", metavar="NAME")
    ] = None,
    retrain: Annotated[
        str | None,
        typer.Option(help="A model trained without the forget set: what may be known.", metavar="CHECKPOINT"),
    ] = None,
    retrain_auc: Annotated[
        float | None,
        typer.Option(help="AUC of Min-40% Prob of such a model, where only that is known (MUSE-News: 0.4772)."),
    ] = None,
    scheme: Annotated[
        list[str],
        typer.Option(
            help="How the model will be quantized; repeat for several, or all. See quail schemes.", metavar="NAME"
        ),
    ] = ["nf4"],  # noqa: B006 - typer copies it
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this metric; repeat for several. Default: all the data has.", metavar="NAME"),
    ] = None,
    skip_module: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave modules of this name in full precision, as llm_int8_skip_modules does; repeat for several. "
            "Default: as bitsandbytes leaves them (embeddings and head).",
            metavar="NAME",
        ),
    ] = None,
    max_samples: Annotated[int | None, typer.Option(help="At most this many samples a metric.", min=1)] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            help="Samples generated at once; auto finds out, and halves it when memory runs out.", metavar="N|auto"
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where models run.", metavar="auto|cpu|cuda[:N]|mps")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="What models compute in. auto: the checkpoint's own, but float32 on a CPU.",
            metavar="auto|float32|bfloat16|float16",
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the bootstrap, and of calibration.", min=0)] = 0,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Texts that gptq-… and awq-… are calibrated on: plain text, or .jsonl. "
            "Default: the retain texts of --data.",
            metavar="FILE",
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option(help="At most this many samples of 512 tokens to calibrate on.", min=1)
    ] = 128,
    policy: Annotated[
        str | None,
        typer.Option(
            help="What the release has to meet, in TOML. Default: quail.toml, or [tool.quail] of pyproject.toml, in "
            "the working folder. none: the default limits, whatever lies there.",
            metavar="FILE|none",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="A limit of the verdict in the place of the policy's, as max_recovery_percent=5; repeat for several.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The folder of an earlier audit's run: fail only on what got worse since, as quail compare tells it.",
            metavar="RUN",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="The run's own folder, made by the run. Default: .quail/runs/<run id>.", metavar="DIR"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with an audit that was stopped, from the folder of its run: what it measured is not measured "
            "again. It is asked for what it was asked for, so only --format, --output and --quiet go with it.",
            metavar="RUN",
        ),
    ] = None,
    format: Annotated[OutputFormat, typer.Option(help="Of the result.")] = "text",  # noqa: A002 - the option's name
    output: Annotated[
        Path | None, typer.Option(help="Write the result here instead of to stdout.", metavar="FILE")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Compare an original and an unlearned checkpoint as they would be deployed, and give a verdict.

    Measures layer by layer which updates the rounding erased, and with --data which forgotten answers come back.
    The exit code is the verdict: 0 pass, 1 fail, 5 inconclusive; 2, 3 and 4 say why there is none.
    """
    from pydantic import ValidationError

    from quail_audit.engine.schemes.registry import expand_names
    from quail_audit.schema.command_line import option_of
    from quail_audit.schema.requests import AuditRequest
    from quail_audit.verdict.policy_file import choose_policy

    if resume is not None:
        _refuse_beside_resume(context)
        return resume_and_show(resume, format=format, output=output, quiet=quiet)
    if original is None or unlearned is None:
        raise UsageError(
            "which checkpoints? Two are compared",
            where="ORIGINAL UNLEARNED",
            mend="For example quail audit original/ unlearned/; or go on with a stopped audit: --resume RUN",
        )
    try:
        request = AuditRequest(
            original=original,
            unlearned=unlearned,
            retrain=retrain,
            retrain_auc=retrain_auc,
            data=data,
            text_column=text_column,
            label_column=label_column,
            schemes=expand_names(scheme),
            metrics=tuple(dict.fromkeys(metric)) if metric else None,
            skip_modules=tuple(skip_module) if skip_module else None,
            max_samples=max_samples,
            batch_size=None if batch_size == "auto" else batch_size,  # type: ignore[arg-type]  # pydantic parses it
            device=device,
            dtype=dtype,
            seed=seed,
            policy=choose_policy(policy, Path()),
            limits=_limits(limit or ()),
            baseline=baseline,
            calibration=calibration,
            calibration_samples=calibration_samples,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(first["msg"], where=option_of(str(first["loc"][0])), mend="See quail audit --help") from error
    return audit_and_show(request, run_dir=run_dir, format=format, output=output, quiet=quiet)


def _refuse_beside_resume(context: typer.Context) -> None:
    """Raises UsageError where anything is given that would ask for another audit than the one that was stopped."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in ("resume", "format", "output", "quiet"):
            continue
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                "--resume goes on with what the run was asked for",
                where=parameter.opts[0] if name not in ("original", "unlearned") else name.upper(),
                mend="Leave it out, or start another audit without --resume",
            )


def _limits(given: Iterable[str]) -> dict[str, float]:
    """The limits of --limit.

    Raises:
        UsageError: one is not NAME=VALUE, or no limit.
    """
    from quail_audit.verdict.policy_file import refuse_bad_limits

    limits = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError as error:
            raise UsageError(
                f"{each!r} is not NAME=VALUE", where="--limit", mend="For example --limit max_recovery_percent=5"
            ) from error
    refuse_bad_limits(limits)
    return limits
