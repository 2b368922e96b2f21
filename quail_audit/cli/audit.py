"""`quail audit`: run or resume an audit."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Annotated

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import (
    Format,
    LabelColumn,
    OriginalOrNone,
    Output,
    Quiet,
    RunDir,
    TextColumn,
    UnlearnedOrNone,
)
from quail_audit.cli.output import OutputFormat, open_results
from quail_audit.cli.running import run_and_show, show_run, tell_how_to_resume
from quail_audit.core.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from quail_audit.schema.events.lines import Events
    from quail_audit.schema.report import Report
    from quail_audit.schema.requests import AuditRequest


@command(
    "quail audit org/llama-news org/llama-news-unlearned --data muse-news",
    "quail audit original/ unlearned/ --data data/ --retrain retrain/ --scheme nf4 --scheme fp4 --format json",
    "quail audit original/ unlearned/ --data data/ --scheme gptq-int4-g128 --calibration texts.jsonl",
    "quail audit --resume .quail/runs/20260101-120000-ab12",
)
def audit(
    context: typer.Context,
    original: OriginalOrNone = None,
    unlearned: UnlearnedOrNone = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data folder in MUSE layout, or a classifier's: forget, retain, test and holdout as .csv or .jsonl. "
            "Without data only the weights are measured, and no audit passes.",
            metavar="PATH",
        ),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    retrain: Annotated[
        str | None,
        typer.Option(
            help="Reference model trained without the forget set; sets the floor: what a model may know.",
            metavar="CHECKPOINT",
        ),
    ] = None,
    retrain_auc: Annotated[
        float | None,
        typer.Option(help="The reference's AUC of Min-40% Prob, if only that is known (MUSE-News: 0.4772)."),
    ] = None,
    scheme: Annotated[
        list[str],
        typer.Option(
            help="Scheme that the model will be quantized with; repeat for several, or all. quail schemes lists them.",
            metavar="NAME",
        ),
    ] = ["nf4"],  # noqa: B006 - typer copies it
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure only this metric; repeat for several. Default: all that the data allows.", metavar="NAME"
        ),
    ] = None,
    skip_module: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave modules of this name in full precision, as llm_int8_skip_modules does; repeat for several. "
            "Default: those that bitsandbytes leaves (embeddings and head).",
            metavar="NAME",
        ),
    ] = None,
    max_samples: Annotated[
        int | None,
        typer.Option(
            help="Measure at most this many samples a metric, drawn at random by --seed. With --resume: go on with so "
            "many after an audit that ended undecided.",
            min=1,
        ),
    ] = None,
    stop_when_decided: Annotated[
        bool,
        typer.Option(
            "--stop-when-decided",
            help="Ask items in blocks, in random order, and ask no more about a scheme once its verdict is certain.",
        ),
    ] = False,
    population: Annotated[
        int | None,
        typer.Option(
            help="Items that the whole forget set has, of which the data has some or all. "
            "Default: as the data's population.json says; without one, any number.",
            metavar="N",
            min=1,
        ),
    ] = None,
    prompt_format: Annotated[
        str,
        typer.Option(
            help="How questions are asked: raw, as texts; chat, through the tokenizer's chat template; "
            "auto, raw and, if there is a template, through it too.",
            metavar="auto|raw|chat",
        ),
    ] = "auto",
    batch_size: Annotated[
        str,
        typer.Option(
            help="Samples generated at once. auto finds the number, and halves it when memory runs out.",
            metavar="N|auto",
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="Device that models run on.", metavar="auto|cpu|cuda[:N]|mps")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="Type that models compute in. auto: the checkpoint's own, but float32 on a CPU.",
            metavar="auto|float32|bfloat16|float16",
        ),
    ] = "auto",
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Tokenizer that arms read with: each its checkpoint's own, as deployed, or all the original's.",
            metavar="own|original",
        ),
    ] = "own",
    seed: Annotated[
        int, typer.Option(help="Random seed for bootstrap, calibration and the order of items.", min=0)
    ] = 0,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Texts to calibrate gptq-… and awq-… schemes on: plain text, or .jsonl. "
            "Default: the retain texts of --data.",
            metavar="FILE",
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option(help="Calibrate on at most this many samples of 512 tokens.", min=1)
    ] = 128,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policy that the release has to meet, in TOML. Default: quail.toml, or the table tool.quail of "
            "pyproject.toml, in the working folder. none: the default limits, even if the folder has a policy.",
            metavar="FILE|none",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="Limit that replaces the policy's, as max_known_percent=5; repeat for several.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Run folder of an earlier audit: fail only on what got worse since, as quail compare shows it.",
            metavar="RUN",
        ),
    ] = None,
    run_dir: RunDir = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Resume a stopped audit from its run folder; nothing is measured twice. The audit keeps its own "
            "options: only --format, --output and --quiet go with this one; after an audit that ended undecided, also "
            "--max-samples, to go on with more items in a new run folder, which --run-dir names.",
            metavar="RUN",
        ),
    ] = None,
    format: Format = "text",  # noqa: A002 - the option's name
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Compare an original and an unlearned checkpoint as they would be deployed, and give a verdict.

    Measures layer by layer which updates the rounding erased, and with --data what is still known and what comes back.
    No audit passes without data. The exit code is the verdict: 0 pass, 1 fail, 5 inconclusive; 2, 3 and 4 say why
    there is none.
    """
    from pydantic import ValidationError

    from quail_audit.engine.schemes.registry import expand_names
    from quail_audit.schema.command_line import invalid_option
    from quail_audit.schema.requests import AuditRequest
    from quail_audit.verdict.policy_file import choose_policy

    if resume is not None:
        _refuse_beside_resume(context, more=max_samples is not None)
        if max_samples is not None:
            return go_on(resume, max_samples, run_dir=run_dir, format=format, output=output, quiet=quiet)
        return resume_audit(resume, format=format, output=output, quiet=quiet)
    if original is None or unlearned is None:
        raise UsageError(
            "two checkpoints are needed",
            where="ORIGINAL UNLEARNED",
            mend="For example quail audit original/ unlearned/; or resume a stopped audit: --resume RUN",
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
            population=population,
            prompt_format=prompt_format,  # type: ignore[arg-type]  # pydantic refuses others
            stop_when_decided=stop_when_decided,
            batch_size=None if batch_size == "auto" else batch_size,  # type: ignore[arg-type]  # pydantic parses it
            device=device,
            dtype=dtype,
            tokenizer=tokenizer,  # type: ignore[arg-type]  # pydantic refuses others
            seed=seed,
            policy=choose_policy(policy, Path()),
            limits=_limits(limit or ()),
            baseline=baseline,
            calibration=calibration,
            calibration_samples=calibration_samples,
        )
    except ValidationError as error:
        raise invalid_option(error, "quail audit") from error
    return run_audit(request, run_dir=run_dir, format=format, output=output, quiet=quiet)


def run_audit(
    request: AuditRequest,
    *,
    run_dir: Path | None = None,
    format: OutputFormat = "text",  # noqa: A002 - the option's name
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Run an audit into its folder, show it as it goes and its result at the end; return its exit code.

    Raises:
        QuailError: the run could not be finished; what was measured is in its folder.
    """
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id

    run_id = new_run_id()
    folder = run_dir or RUNS_FOLDER / run_id
    events = _audit_events(request, run_id, folder, _baseline(request))
    return run_and_show(request, events, folder, format=format, output=output, quiet=quiet)


def resume_audit(
    run: Path,
    *,
    format: OutputFormat = "text",  # noqa: A002 - the option's name
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Resume a stopped audit, as run_audit; of a finished one, show the result again.

    Raises:
        QuailError: as run_audit; the folder holds no audit, or the audit does not repeat its recorded events.
    """
    from quail_audit.runs.folder import hold_stopped_run
    from quail_audit.runs.names import new_run_id
    from quail_audit.runs.record import record

    # in this order: holding the run sweeps up unfinished files
    with hold_stopped_run(run) as stopped, open_results(output) as results:
        if stopped.ended is not None:
            with closing(stopped.recorded.replay_rest()) as events:
                return show_run(events, run, results, format, quiet=True)
        first, request = stopped.started, stopped.request
        run_id, started = (new_run_id(), None) if first is None else (first.run_id, first.started)
        with (
            tell_how_to_resume(run),
            closing(_audit_events(request, run_id, run, _baseline(request), started)) as repeated,
            closing(record(repeated, run, stopped.recorded)) as events,
        ):
            return show_run(events, run, results, format, quiet=quiet)


def go_on(
    run: Path,
    max_samples: int,
    *,
    run_dir: Path | None = None,
    format: OutputFormat = "text",  # noqa: A002 - the option's name
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Go on with more items after an audit that ended undecided, in a folder of its own; as run_audit.

    Raises:
        QuailError: as run_audit; or there is nothing to go on with, or something changed since.
    """
    from quail_audit.runs.folder import read_report
    from quail_audit.runs.going_on import refuse_changes, request_for_more
    from quail_audit.runs.names import JOURNAL, RUNS_FOLDER, new_run_id

    request = request_for_more(run, read_report(run), max_samples)
    run_id = new_run_id()
    folder = run_dir or RUNS_FOLDER / run_id
    events = _audit_events(request, run_id, folder, _baseline(request), earlier=run / JOURNAL)
    events = refuse_changes(events, run)
    return run_and_show(request, events, folder, format=format, output=output, quiet=quiet)


def _audit_events(
    request: AuditRequest,
    run_id: str,
    folder: Path,
    baseline: Report | None,
    started: str | None = None,
    earlier: Path | None = None,
) -> Events:
    """Yield an audit's events; what it measures is kept in the folder's journal, which begins with an earlier one."""
    from quail_audit.engine.audit.run import audit as events_of
    from quail_audit.runs.journal import open_journal
    from quail_audit.runs.names import JOURNAL

    if earlier is not None:
        copyfile(earlier, folder / JOURNAL)
    with open_journal(folder / JOURNAL) as journal:
        yield from events_of(request, run_id, baseline=baseline, started=started, journal=journal)


def _baseline(request: AuditRequest) -> Report | None:
    return read_baseline(request.baseline) if request.baseline is not None else None


def read_baseline(run: str) -> Report:
    """Read the report of an earlier run.

    Raises:
        BadInputError: there is none, or it cannot be read.
    """
    from quail_audit.runs.folder import read_report

    try:
        return read_report(Path(run))
    except BadInputError as error:
        raise BadInputError(
            f"the baseline: {error.message}", where=error.where, mend="Name it with --baseline"
        ) from error


def _refuse_beside_resume(context: typer.Context, *, more: bool) -> None:
    """Raise UsageError if an option asks for another audit than the one that was stopped, or more than more items."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in ("resume", "format", "output", "quiet") or (more and name in ("max_samples", "run_dir")):
            continue
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                "--resume repeats what the run was asked for",
                where=parameter.opts[0] if name not in ("original", "unlearned") else name.upper(),
                mend="Leave it out, or start another audit without --resume",
            )


def _limits(given: Iterable[str]) -> dict[str, float]:
    """Return the limits of --limit.

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
                f"{each!r} is not NAME=VALUE", where="--limit", mend="For example --limit max_known_percent=5"
            ) from error
    refuse_bad_limits(limits)
    return limits
