"""The `quail` command: parses, picks a face, maps errors to exit codes.

Imports nothing heavy at the top: a command imports what it needs.
"""

from __future__ import annotations

import datetime
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec, TextIO

import typer

import quail_audit
from quail_audit.core import interruption
from quail_audit.core.errors import (
    EXIT_ENVIRONMENT,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_USAGE,
    BadInputError,
    EnvironmentProblemError,
    QuailError,
    UsageError,
)

if TYPE_CHECKING:
    from rich.console import Console

    from quail_audit.cli.progress.live import LiveView
    from quail_audit.cli.progress.plain import PlainProgress
    from quail_audit.runs.state import AnyState
    from quail_audit.schema.events.lines import Event
    from quail_audit.schema.report import CureReport, Report, TrainingReport
    from quail_audit.schema.requests import AuditRequest

DEBUG_VARIABLE = "QUAIL_DEBUG"
DRIVER_VARIABLE = "TEXTUAL_DRIVER"  # what shows the app in a terminal's place, as under quail serve
TEXT_WIDTH = 120  # of a report that goes to a file or a pipe

ComparisonFormat = Literal["text", "markdown", "json"]

P = ParamSpec("P")
Format = Literal["text", "json", "jsonl", "markdown", "html", "junit", "sarif", "csv", "csv-samples"]

app = typer.Typer(
    name="quail",
    help="Audits unlearned language models for knowledge that comes back when they are quantized.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Without a command: opens the app. Start here: quail demo. Exit codes: 0 pass, 1 fail, 2 usage, "
    "3 bad input, 4 environment, 5 inconclusive, 130 interrupted.",
)


# Loggers that warn of what Quail does not use: torchao, which transformers imports unasked, of what is missing for
# other devices; bitsandbytes of a kernel that its own modules would multiply with on a CPU.
TALKATIVE = ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops")


def main() -> NoReturn:
    """The entry point of the `quail` command."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command: nobody is to see it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
    _add_plugged_in_commands()
    try:
        app()
    except OSError as error:  # of what is shown without a command, as --help: a command's become exit codes
        sys.exit(_ends_with(_unwritten(error)))
    raise AssertionError("typer exits by itself")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"quail {quail_audit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show Python tracebacks.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if context.invoked_subcommand is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()) and DRIVER_VARIABLE not in os.environ:
            typer.echo(context.get_help())
            raise typer.Exit(EXIT_USAGE)
        reports_errors(_open_app)()


def _open_app(run: Path | None = None) -> int:
    """The terminal app, on its start screen or on a run."""
    from quail_audit.tui.app import QuailApp

    app = QuailApp(run)
    signal.signal(signal.SIGTERM, lambda *_: app.exit())
    app.run()
    return app.return_code or 0


def reports_errors(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command's result, and whatever it raises, into an exit code and a plain message on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from quail_audit.core.writing import no_room

        signal.signal(signal.SIGTERM, interruption.interrupt)  # so that a stopped run leaves its folder readable
        try:
            code = command(*args, **kwargs)
        except typer.Exit as end:
            code = end.exit_code
        except KeyboardInterrupt:
            code = _interrupted()
        except QuailError as error:
            code = _explained(error)
        except BrokenPipeError as error:
            code = _unwritten(error)
        except Exception as error:
            if (full := no_room(error)) is not None:
                code = _explained(full)
            elif interruption.was_asked():
                code = _interrupted()
            elif os.environ.get(DEBUG_VARIABLE):
                raise
            else:
                _say(f"error: a defect of Quail: {type(error).__name__}: {_plain(str(error))}")
                _say("  Run again with a traceback: quail --debug …")
                code = EXIT_ENVIRONMENT
        raise typer.Exit(_ends_with(code))

    return run


def _ends_with(code: int) -> int:
    """The exit code once all that was said is written; another where a result cannot be.

    What cannot be written is dropped: Python would try once more at its end, and exit with a code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and code in (EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE):
                code = _unwritten(error)
    return code


def _unwritten(error: OSError) -> int:
    """What it comes to that a result cannot be written: nobody reads it any more, or there is no room for it."""
    from quail_audit.core.writing import cannot_write

    return EXIT_INTERRUPTED if isinstance(error, BrokenPipeError) else _explained(cannot_write("", error))


def _interrupted() -> int:
    _say("interrupted; what was measured is kept")
    return EXIT_INTERRUPTED


def _explained(error: QuailError) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    place = f"{_plain(error.where)}: " if error.where else ""
    _say(f"error: {place}{_plain(error.message)}")
    if error.mend:
        _say(f"  {_plain(error.mend)}")
    return error.exit_code


def _say(line: str) -> None:
    """On stderr, where that can be written: the exit code says the rest."""
    with suppress(OSError):
        typer.echo(line, err=True)


def _plain(text: str) -> str:
    from quail_audit.core.untrusted import printable

    return printable(text)


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
    format: Annotated[Format, typer.Option(help="Of the result.")] = "text",  # noqa: A002 - the option's name
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

    from quail_audit.engine.schemes.registry import expand
    from quail_audit.schema.command_line import option_of
    from quail_audit.schema.requests import AuditRequest
    from quail_audit.verdict.policy_file import policy_asked_for

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
            schemes=expand(scheme),
            metrics=tuple(dict.fromkeys(metric)) if metric else None,
            skip_modules=tuple(skip_module) if skip_module else None,
            max_samples=max_samples,
            batch_size=None if batch_size == "auto" else batch_size,  # type: ignore[arg-type]  # pydantic parses it
            device=device,
            dtype=dtype,
            seed=seed,
            policy=policy_asked_for(policy, Path()),
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
    from quail_audit.verdict.policy_file import refuse_given

    limits = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError as error:
            raise UsageError(
                f"{each!r} is not NAME=VALUE", where="--limit", mend="For example --limit max_recovery_percent=5"
            ) from error
    refuse_given(limits)
    return limits


def audit_and_show(
    request: AuditRequest,
    *,
    run_dir: Path | None = None,
    format: Format = "text",  # noqa: A002
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Run an audit into its folder, show it as it goes and its result at the end; return its exit code.

    Raises:
        QuailError: the run could not be finished; what was measured is in its folder.
    """
    from quail_audit.engine.audit.run import audit as events_of
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.journal import open_journal
    from quail_audit.runs.names import JOURNAL, RUNS_FOLDER, new_run_id
    from quail_audit.runs.record import record

    run_id = new_run_id()
    baseline = _baseline(request)
    place = run_dir or RUNS_FOLDER / run_id
    if output is not None and place.absolute() in output.absolute().parents:
        with suppress(OSError):  # what is wrong with it is said where it is written
            place.mkdir(parents=True, exist_ok=True)
    with (
        _results(output) as results,
        new_run(place, request) as folder,
        _says_how_to_go_on(folder),
        open_journal(folder / JOURNAL) as journal,
        closing(record(events_of(request, run_id, baseline=baseline, journal=journal), folder)) as events,
    ):
        return _show_audit(events, folder, results, format, quiet=quiet)


def resume_and_show(
    run: Path,
    *,
    format: Format = "text",  # noqa: A002
    output: Path | None = None,
    quiet: bool = False,
) -> int:
    """Go on with an audit that was stopped, as audit_and_show; of one that is finished, show the result again.

    Raises:
        QuailError: as audit_and_show; the folder holds no audit, or the audit does not go on as it began.
    """
    from quail_audit.engine.audit.run import audit as events_of
    from quail_audit.runs.folder import stopped_run
    from quail_audit.runs.journal import open_journal
    from quail_audit.runs.names import JOURNAL, new_run_id
    from quail_audit.runs.record import record

    with stopped_run(run) as stopped, _results(output) as results:  # in this order: it sweeps up unfinished files
        if stopped.ended is not None:
            with closing(stopped.recorded.rest()) as events:
                return _show_audit(events, run, results, format, quiet=True)
        first, request = stopped.started, stopped.request
        with (
            _says_how_to_go_on(run),
            open_journal(run / JOURNAL) as journal,
            closing(
                events_of(
                    request,
                    new_run_id() if first is None else first.run_id,
                    baseline=_baseline(request),
                    started=None if first is None else first.started,
                    journal=journal,
                )
            ) as said,
            closing(record(said, run, stopped.recorded)) as events,
        ):
            return _show_audit(events, run, results, format, quiet=quiet)


@contextmanager
def _says_how_to_go_on(folder: Path) -> Iterator[None]:
    """Name the command that goes on with an audit, where it ends before its end and something was measured.

    Not where its input is at fault: the same input would end it again.
    """
    from quail_audit.runs.names import JOURNAL

    try:
        yield
    except BadInputError:
        raise
    except BaseException:
        with suppress(OSError):
            if (folder / JOURNAL).stat().st_size:
                _say(f"to go on from here: quail audit --resume {_quoted(folder)}")
        raise


def _quoted(folder: Path) -> str:
    """A folder as a shell reads it, and as no terminal acts on it."""
    import shlex

    return shlex.quote(_plain(str(folder)))


def _baseline(request: AuditRequest) -> Report | None:
    return _read_baseline(request.baseline) if request.baseline is not None else None


def _read_baseline(run: str) -> Report:
    from quail_audit.runs.folder import read_report

    try:
        return read_report(Path(run))
    except BadInputError as error:
        raise BadInputError(
            f"the baseline: {error.message}", where=error.where, mend="Name it with --baseline"
        ) from error


def _show_audit(
    events: Iterator[Event],
    folder: Path,
    results: TextIO,
    format: Format,  # noqa: A002
    *,
    quiet: bool,
) -> int:
    from quail_audit.runs.names import JOURNAL
    from quail_audit.runs.state.audit import RunState

    state = follow(events, None if quiet else sys.stderr, results if format == "jsonl" else None)
    assert isinstance(state, RunState)  # noqa: S101 - an audit's first event says so
    assert state.end is not None  # noqa: S101 - a run without an end raises
    (folder / JOURNAL).unlink(missing_ok=True)  # of no use to a run that is finished
    report = state.report()
    try:
        _write_report(report, results, format, folder)
    except (EnvironmentProblemError, OSError):
        _say(f"the audit is done, and only its result could not be written: quail report {_quoted(folder)}")
        raise
    if format == "text" and report.verdict is not None:
        typer.echo(f" run folder: {folder}", err=True)
    return state.end.exit_code


def follow(events: Iterator[Event], progress: TextIO | None, streamed: TextIO | None) -> AnyState:
    """Follow a run of any kind to its end: progress as a face, each event as a line to streamed."""
    from contextlib import nullcontext

    from quail_audit.runs.state import state_for
    from quail_audit.runs.state.audit import RunState
    from quail_audit.schema.events.lines import to_line

    state: AnyState = RunState()
    face = _face(progress) if progress is not None else nullcontext()
    with face as shown:
        for event in events:
            state = state_for(event, state)
            state.apply(event)
            if streamed is not None:
                streamed.write(to_line(event) + "\n")
                streamed.flush()
            if shown is not None:
                shown.update(event, state)
    return state


def _face(stream: TextIO) -> LiveView | PlainProgress:
    """A live view where a person looks, plain lines elsewhere."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from quail_audit.cli.progress.live import LiveView
        from quail_audit.reports.text.console import PlainTextConsole

        return LiveView(PlainTextConsole(stream))
    from quail_audit.cli.progress.plain import PlainProgress

    return PlainProgress(stream)


@contextmanager
def _results(output: Path | None) -> Iterator[TextIO]:
    """Where results go: stdout, or a file that takes its place when it is whole."""
    from quail_audit.core.writing import whole_file

    if output is None:
        yield sys.stdout
    else:
        with whole_file(output) as file:
            yield file


def _write_report(
    report: Report | TrainingReport | CureReport,
    stream: TextIO,
    format: Format,  # noqa: A002
    folder: Path | None,
) -> None:
    from quail_audit.runs.digest import sealed
    from quail_audit.schema.report import CureReport, Report, TrainingReport

    if isinstance(report, Report) and (folder is not None or format == "json"):
        report = sealed(report)  # that of a file alone keeps its own, until it is written anew
    if format == "json":
        stream.write(report.model_dump_json(indent=2) + "\n")
    elif format == "text":
        from quail_audit.reports.text import audit as text
        from quail_audit.reports.text import cure as cure_text
        from quail_audit.reports.text import training as training_text

        if isinstance(report, TrainingReport):
            training_text.show(report, new_console(stream))
        elif isinstance(report, CureReport):
            cure_text.show(report, new_console(stream))
        else:
            from quail_audit.runs.attributions import brought_back_in

            text.show(report, new_console(stream), brought_back_in(report, folder))
    elif format != "jsonl":
        from quail_audit.reports.formats import FORMATS

        if not isinstance(report, Report):
            raise UsageError(
                f"only an audit has a report as {format}", where="--format", mend="Give text, json or jsonl"
            )
        stream.writelines(FORMATS[format](report, folder))
    stream.flush()


def new_console(stream: TextIO) -> Console:
    """For results: as wide as the terminal, or TEXT_WIDTH elsewhere."""
    from quail_audit.reports.text.console import PlainTextConsole

    return PlainTextConsole(stream, width=None if stream.isatty() else TEXT_WIDTH)


@app.command(
    epilog="Examples:\n\n"
    "  quail watch .quail/runs/20260101-120000-ab12\n\n"
    "  quail watch .quail/runs/20260101-120000-ab12 --tui\n\n"
    "  quail watch /mnt/cluster/runs/llama --format jsonl"
)
@reports_errors
def watch(
    run: Annotated[Path, typer.Argument(help="A run's folder, of a run still going or ended.", show_default=False)],
    format: Annotated[Format, typer.Option(help="Of the result.")] = "text",  # noqa: A002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    tui: Annotated[bool, typer.Option("--tui", help="Follow it in the app, where its parts can be opened.")] = False,
) -> int:
    """Follow a run that is going on, here or on another machine, or replay one that has ended.

    Shows the same view as the audit itself and exits with the run's exit code. Of a run that was killed it shows what
    was measured, and exits with 4. With --tui it opens the app on the run and exits with 0; leaving the app leaves the
    run alone.
    """
    from quail_audit.runs.follow import replay, require_run
    from quail_audit.runs.state.audit import RunState
    from quail_audit.runs.state.training import TrainingState

    if tui:
        require_run(run)
        return _open_app(run)

    streamed = sys.stdout if format == "jsonl" else None
    with closing(replay(run, follow=True)) as events:
        state = follow(events, None if quiet else sys.stderr, streamed)
    if state.started is None:
        raise BadInputError("the run ended before it had measured anything", where=str(run))
    _write_report(state.report(), sys.stdout, format, run)
    if state.end is None:
        is_audit = isinstance(state, RunState)
        mends = {
            RunState: "What it had measured is shown above; run the audit again for a verdict",
            TrainingState: "Go on from its last checkpoint with quail train --resume-from-checkpoint, or train again",
        }
        raise EnvironmentProblemError(
            f"the run ended without {'a verdict' if is_audit else 'its result'}: its process was killed or its machine "
            "went away",
            where=str(run),
            mend=mends.get(type(state), "Run the same command again"),
        )
    return state.end.exit_code


@app.command(
    epilog="Examples:\n\n"
    "  quail report .quail/runs/20260101-120000-ab12\n\n"
    "  quail report .quail/runs/20260101-120000-ab12 --format markdown --output comment.md\n\n"
    "  quail report .quail/runs/20260101-120000-ab12 --figures figures/ --model-card unlearned/README.md"
)
@reports_errors
def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of an audit's run, or a report.json alone, of any Quail; it has no samples.",
            show_default=False,
        ),
    ],
    format: Annotated[Format, typer.Option(help="Of the report.")] = "text",  # noqa: A002
    output: Annotated[
        Path | None, typer.Option(help="Write the report here instead of to stdout.", metavar="FILE")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Besides, draw figures for a paper into this folder, each as SVG and PNG. Needs the extra figures.",
            metavar="DIR",
        ),
    ] = None,
    model_card: Annotated[
        Path | None,
        typer.Option(
            help="Besides, put the results into the metadata of this model card; all else in it stays.",
            metavar="README.md",
        ),
    ] = None,
) -> int:
    """Write the report of an audit that has been run, in any format.

    The exit code is 0 where the report was written, whatever its verdict is.
    """
    from quail_audit.runs.folder import read_report
    from quail_audit.runs.follow import replay
    from quail_audit.schema.events.lines import to_line

    found = read_report(run)
    if format == "jsonl" and run.is_file():
        raise UsageError("a report alone holds no events", where="--format jsonl", mend="Name the folder of the run")
    with _results(output) as results:
        if format == "jsonl":
            results.writelines(to_line(event) + "\n" for event in replay(run))
        else:
            _write_report(found, results, format, run if run.is_dir() else None)
    if figures is not None:
        from quail_audit.reports.figures import write_figures

        for path in write_figures(found, figures):
            typer.echo(f" figure: {path}", err=True)
    if model_card is not None:
        from quail_audit.reports.model_card import write_model_card

        write_model_card(found, model_card)
        typer.echo(f" model card: {model_card}", err=True)
    return 0


@app.command(
    epilog="Examples:\n\n"
    "  quail compare .quail/runs/20260101-120000-ab12 .quail/runs/20260102-090000-cd34\n\n"
    "  quail compare before/ after/ --format markdown --output comment.md"
)
@reports_errors
def compare(
    before: Annotated[Path, typer.Argument(help="The folder of an audit's run.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="That of a later one.", show_default=False)],
    format: Annotated[ComparisonFormat, typer.Option(help="Of the result.")] = "text",  # noqa: A002
    output: Annotated[
        Path | None, typer.Option(help="Write the result here instead of to stdout.", metavar="FILE")
    ] = None,
) -> int:
    """Say what two audits found differently: which formats, scores and layers are better, worse or the same.

    Two scores are the same where their intervals overlap. The exit code is 0 where they could be compared.
    """
    from pydantic import TypeAdapter

    from quail_audit.reports import comparison as changes
    from quail_audit.runs.folder import read_report
    from quail_audit.verdict.comparison import Comparison
    from quail_audit.verdict.comparison import compare as compared

    found = compared(read_report(before), read_report(after))
    with _results(output) as results:
        if format == "json":
            results.write(TypeAdapter(Comparison).dump_json(found, indent=2).decode() + "\n")
        elif format == "markdown":
            results.write(changes.markdown(found))
        else:
            changes.show(found, new_console(results))
    return 0


def _place_option(help: str, metavar: str = "DIR") -> Any:  # noqa: A002
    return typer.Option(help=f"{help} Default: where the audit read it.", metavar=metavar)


@app.command(
    epilog="Examples:\n\n"
    "  quail verify .quail/runs/20260101-120000-ab12\n\n"
    "  quail verify report.json --original models/llama --unlearned models/llama-unlearned --data muse-news\n\n"
    "  quail verify .quail/runs/20260101-120000-ab12 --public-key release.pub.pem --format json"
)
@reports_errors
def verify(
    run: Annotated[
        Path, typer.Argument(help="The folder of an audit's run, or a report.json alone.", show_default=False)
    ],
    original: Annotated[Path | None, _place_option("Where the original's files lie.")] = None,
    unlearned: Annotated[Path | None, _place_option("Where the unlearned checkpoint's files lie.")] = None,
    retrain: Annotated[Path | None, _place_option("Where the reference's files lie.")] = None,
    data: Annotated[Path | None, _place_option("Where the data lies.")] = None,
    calibration: Annotated[Path | None, _place_option("The texts that were calibrated on.", "FILE")] = None,
    policy: Annotated[Path | None, _place_option("The policy.", "FILE")] = None,
    baseline: Annotated[Path | None, _place_option("The run that it was held against.", "RUN")] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="The signer's Ed25519 key, PEM or OpenSSH: the run has to be signed by it. Needs the extra sign.",
            metavar="FILE",
        ),
    ] = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="Of the result.")] = "text",  # noqa: A002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Say whether anything of an audit has changed since: its report, its events, and every file that it read.

    The exit code is 0 where nothing has, 1 where something was changed, added or is missing, and 5 where nothing was
    found changed but not everything could be checked.
    """
    from quail_audit.cli.progress.reading import shown_reading
    from quail_audit.reports.text import verification as verification_text
    from quail_audit.runs.integrity.verify import verify as verified
    from quail_audit.schema.figures import FileRole

    places: dict[FileRole, Path | None] = {
        "original": original,
        "unlearned": unlearned,
        "retrain": retrain,
        "data": data,
        "calibration": calibration,
        "policy": policy,
        "baseline": baseline,
    }
    given = {role: place for role, place in places.items() if place is not None}
    with shown_reading(None if quiet else sys.stderr, "reading files") as progress:
        found = verified(run, given, public_key=public_key, progress=progress)
    if format == "json":
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        verification_text.show(found, new_console(sys.stdout))
    return found.exit_code


@app.command(
    epilog="Examples:\n\n"
    "  openssl genpkey -algorithm ed25519 -out release.pem\n\n"
    "  quail sign .quail/runs/20260101-120000-ab12 --key release.pem"
)
@reports_errors
def sign(
    run: Annotated[
        Path, typer.Argument(help="The folder of an audit's run, or a report.json alone.", show_default=False)
    ],
    key: Annotated[
        Path,
        typer.Option(help="An Ed25519 private key, PEM or OpenSSH. Needs the extra sign.", metavar="FILE"),
    ],
) -> int:
    """Sign an audit's report and events. The signature goes into a file of its own beside the report.

    What does not fit together is not signed. quail verify RUN --public-key FILE checks it.
    """
    from quail_audit.runs.integrity.verify import sign as signed

    def ask() -> str | None:
        return typer.prompt("passphrase", hide_input=True, err=True) if sys.stdin.isatty() else None

    typer.echo(f" signature: {_plain(str(signed(run, key, ask)))}", err=True)
    return 0


policy_commands = typer.Typer(help="What a release has to meet: write a policy, and hold a run against one.")
app.add_typer(policy_commands, name="policy")


@policy_commands.command("init")
@reports_errors
def policy_init(
    file: Annotated[Path, typer.Argument(help="The file to write; none that is there is overwritten.")] = Path(
        "quail.toml"
    ),
) -> int:
    """Write a policy with the default limits, and with comments that say what else it can hold."""
    from quail_audit.verdict.policy_file import write_template

    write_template(file)
    typer.echo(f"wrote {_plain(str(file))}: the default limits. quail audit reads it where it is started", err=True)
    return 0


@policy_commands.command(
    "check",
    epilog="Examples:\n\n"
    "  quail policy check .quail/runs/20260101-120000-ab12\n\n"
    "  quail policy check .quail/runs/20260101-120000-ab12 --policy stricter.toml\n\n"
    "  quail policy check .quail/runs/20260102-090000-cd34 --baseline .quail/runs/20260101-120000-ab12",
)
@reports_errors
def policy_check(
    run: Annotated[Path, typer.Argument(help="The folder of an audit's run.", show_default=False)],
    policy: Annotated[
        str | None,
        typer.Option(
            help="Judge the run by this policy, today; none: by the default limits. Default: by the one it was judged "
            "by, on its own day.",
            metavar="FILE|none",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Fail it only on what got worse than in this earlier run. Default: the audit's own baseline, if any.",
            metavar="RUN",
        ),
    ] = None,
) -> int:
    """Say of each rule what came of it, the figure beside the limit. Nothing is measured again.

    The exit code is the verdict: 0 pass, 1 fail, 5 inconclusive.
    """
    from quail_audit.reports.text import rules as rules_text
    from quail_audit.runs.folder import read_report
    from quail_audit.schema.policy import Policy
    from quail_audit.verdict.checks import exit_code
    from quail_audit.verdict.judge import day_of, judge_report, unmeasured
    from quail_audit.verdict.policy_file import policy_asked_for, read_policy

    found = read_report(run)
    if found.verdict is None:
        raise BadInputError("the run has no verdict: it was stopped before its end", where=str(run))
    recorded = found.policy.effective if found.policy is not None else Policy()
    used = recorded if policy is None else read_policy(policy_asked_for(policy, Path()))
    today = day_of(found) if policy is None else datetime.datetime.now(datetime.UTC).date()
    before = found.request.baseline if baseline is None else baseline
    judged = judge_report(found, used, today, None if before is None else _read_baseline(before))
    rules_text.show(judged, new_console(sys.stdout))
    return exit_code(judged.overall, unmeasured(found))


@app.command(
    epilog="Examples:\n\n"
    "  quail serve\n\n"
    "  quail serve --port 0 .quail/runs/20260101-120000-ab12\n\n"
    "  ssh -t -L 8000:127.0.0.1:8000 machine quail serve"
)
@reports_errors
def serve(
    run: Annotated[Path | None, typer.Argument(help="A run's folder to open at once.", show_default=False)] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Another than this lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
) -> int:
    """Open the app in a browser: serves it to this machine, until Ctrl-C.

    Open the address that it prints, and keep that to yourself: whoever has it can use the app as you can. Each tab is
    an app of its own, and closing it ends the audit it has started. From another machine, connect with ssh -L.
    """
    from quail_audit.runs.follow import require_run
    from quail_audit.tui.browser.serve import AppServer, is_loopback, listen

    if run is not None:
        require_run(run)

    def say_where() -> None:
        if not is_loopback(listener):
            typer.echo(
                "warning: other machines can reach this. Whoever learns the address below can run audits and read "
                "every folder that you can read,\n  and it travels unencrypted. Safer: leave out --host, and connect "
                f"with ssh -L {server.port}:127.0.0.1:{server.port}",
                err=True,
            )
        typer.echo(f"Quail is at {server.address}\nCtrl-C ends it, and every audit that was started there", err=True)

    with listen(host, port) as listener:
        server = AppServer(host, listener, run, ready=say_where)
        server.serve()
    return 0


@app.command()
@reports_errors
def schema() -> int:
    """Print the JSON Schema of report.json, which quail audit writes into the run folder and with --format json."""
    from quail_audit.runs.report_file import schema

    typer.echo(schema(), nl=False)
    return 0


@app.command()
@reports_errors
def schemes() -> int:
    """List the quantization schemes, and whether this machine can run them."""
    from quail_audit.cli.doctor import show_schemes

    return show_schemes(new_console(sys.stdout))


@app.command()
@reports_errors
def doctor() -> int:
    """Say what this machine can run, which versions it has, and what to install for the rest."""
    from quail_audit.cli.doctor import examine, show

    findings = examine()
    show(findings, new_console(sys.stdout))
    return EXIT_ENVIRONMENT if any(finding.needed and not finding.found for finding in findings) else 0


def _add_plugged_in_commands() -> None:
    """Commands of other packages, such as quail_train's demo. A broken one says so when it is called, not before."""
    for entry in entry_points(group="quail.commands"):
        try:
            command: Callable[..., Any] = entry.load()
        except Exception as error:  # a plug-in may fail in any way; the other commands must work
            command = _broken_command(entry.name, error)
        # A command may say how its arguments are read, and how its help ends, as attributes of its function.
        settings = getattr(command, "context_settings", None)
        app.command(entry.name, context_settings=settings, epilog=getattr(command, "epilog", None))(
            reports_errors(command)
        )


def _broken_command(name: str, error: Exception) -> Callable[..., int]:
    def broken() -> int:
        """Not usable here: its package failed to load."""
        raise EnvironmentProblemError(f"the command {name} failed to load: {type(error).__name__}: {error}") from error

    return broken


if __name__ == "__main__":
    main()
