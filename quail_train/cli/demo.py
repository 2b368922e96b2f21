"""`quail demo`: build a demo, audit it, explain the result."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from quail_audit.cli.app import command
from quail_audit.cli.options import Quiet
from quail_audit.core.errors import EXIT_FAIL, EXIT_PASS

DemoTask = Literal["language", "classification"]

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from quail_audit.engine.forgetting.metrics.interface import Task
    from quail_audit.schema.requests import AuditRequest
    from quail_train.demo.building import DemoProgress, DemoStage

TITLES: dict[DemoStage, str] = {
    "tokenizer": "train the tokenizer",
    "original": "train the original",
    "retrain": "train the reference, without the forget set",
    "unlearned": "unlearn, confined to the nf4 buckets",
    "data": "write the data",
}
TASKS: dict[str, Task] = {"language": "language modelling", "classification": "classification"}
FOLDERS = {"language": "quail-demo", "classification": "quail-demo-classifier"}
# Shown only if the audit came to this result.
SEEN = {
    "language": (
        "The unlearned model answers as if it had never read the forget set, and in full precision VerbMem and KnowMem "
        "agree. "
    ),
    "classification": (
        "The original had learned some fake posts as real. The unlearned model calls them fake, as a model that never "
        "learned them does, and in full precision accuracy and probability agree. "
    ),
}
WHY = (
    "But none of its weights has left its nf4 bucket, so rounding to 4 bits gives the original's weights back, and "
    "with them what was forgotten. "
    f"The audit caught it and exits with {EXIT_FAIL} (fail): that is how this demo is meant to end."
)
REPAIRED = (
    "The layers at risk were retrained: the hinge holds the rounded model's logits on the forget set away from the "
    "original's, and the rounded model is asked to keep the retain set. The forgetting is now in the 4-bit weights, "
    "and the audit passes."
)


@command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Folder of the demo; a finished demo is used again. Default: quail-demo, or quail-demo-classifier.",
        ),
    ] = None,
    task: Annotated[
        DemoTask, typer.Option(help="Task of the model: continue texts, or tell fake posts from real ones.")
    ] = "language",
    seed: Annotated[int, typer.Option(help="Random seed for the texts and the weights.", min=0)] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Afterwards retrain the layers at risk, and audit the result.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Build a small model that seems to forget, audit it, and see the forgotten come back at 4 bits.

    Makes an original, an unlearned and a retrained checkpoint and their data from invented texts, then runs quail audit
    on them. Takes about two minutes on two cores, with --task classification less than one. Exits with the audit's
    code, 1, as it should. With --repair, quail train then makes DIR/repaired, whose audit passes, so the exit code is
    0.
    """
    from quail_audit.cli.audit import run_audit
    from quail_audit.runs.names import RUNS_FOLDER, new_run_id
    from quail_audit.schema.command_line import audit_arguments
    from quail_audit.schema.requests import AuditRequest
    from quail_train.demo.folder import build_demo
    from quail_train.demo.sizes import DEMOS

    folder = Path(FOLDERS[task]) if folder is None else folder
    with _show_building(None if quiet else sys.stderr) as show:
        for progress in build_demo(folder, seed=seed, sizes=DEMOS[TASKS[task]]):
            show(progress)
    request = AuditRequest(
        original=str(folder / "original"),
        unlearned=str(folder / "unlearned"),
        retrain=str(folder / "retrain"),
        data=str(folder / "data"),
        schemes=("nf4", "fp4") if repair else ("nf4",),
    )
    if not quiet:
        typer.echo(f"now: {shlex.join(['quail', *audit_arguments(request)])}", err=True)
    run = RUNS_FOLDER / new_run_id()
    code = run_audit(request, run_dir=run, quiet=quiet)
    _explain(code, task, repaired_next=repair)
    return _repair(request, run, quiet=quiet) if repair and code == EXIT_FAIL else code


def _repair(audited: AuditRequest, run: Path, *, quiet: bool) -> int:
    """Retrain the layers at risk as quail train does, audit the result, and return the audit's exit code."""
    from quail_train.cli.train import run_training
    from quail_train.demo.repair import repair_of

    request, typed = repair_of(audited, run)
    if not quiet:
        typer.echo(f"now: {shlex.join(typed)}", err=True)
    code = run_training(request, typed=typed, overwrite=True, quiet=quiet)
    if code == EXIT_PASS:
        typer.echo(f"\n{REPAIRED}\n")
    return code


def _quail_command() -> str:
    """Return `quail` as this process was started, which works again whether it is on the path or not."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "quail" else "quail"


def _explain(code: int, task: DemoTask, *, repaired_next: bool) -> None:
    if code == EXIT_FAIL:
        typer.echo(f"\n{SEEN[task]}{WHY}\n")
    if code == EXIT_FAIL and not repaired_next:
        typer.echo(f"Look closer, in the app: {_quail_command()}")
        typer.echo(f"See it repaired: quail demo{'' if task == 'language' else f' --task {task}'} --repair")
        typer.echo("Next, on your own checkpoints: quail audit ORIGINAL UNLEARNED --data DATA")
    elif code != EXIT_FAIL:
        typer.echo(f"\nThe demo was meant to end with exit code {EXIT_FAIL} (fail), and ended with {code}.")
        typer.echo("Please report this, with the output of: quail doctor")


@contextmanager
def _show_building(stream: TextIO | None) -> Iterator[Callable[[DemoProgress], None]]:
    """Show bars with the remaining time on a terminal, plain lines elsewhere, nothing without a stream."""
    if stream is None:
        yield lambda progress: None
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(file=stream)) as bars:
            tasks: dict[DemoStage, TaskID] = {}
            yield lambda progress: _move_bar(progress, bars, tasks)
    else:
        yield lambda progress: _write_line(progress, stream)


def _move_bar(progress: DemoProgress, bars: Progress, tasks: dict[DemoStage, TaskID]) -> None:
    """Move a stage's bar, which appears with its first step."""
    if progress.stage not in tasks:
        tasks[progress.stage] = bars.add_task("", total=progress.total)
    bars.update(tasks[progress.stage], completed=progress.step, description=_title_of(progress))


def _write_line(progress: DemoProgress, stream: TextIO) -> None:
    """Write a line when a stage begins to take time, and one when it is done."""
    if progress.step == progress.total:
        stream.write(f"demo: {_title_of(progress)}: done\n")
    elif progress.step == 1:
        stream.write(f"demo: {_title_of(progress)}: {progress.total} steps\n")
    stream.flush()


def _title_of(progress: DemoProgress) -> str:
    """Return the stage in words, or its message if it has one."""
    title = progress.message or TITLES[progress.stage]
    return title if progress.loss is None else f"{title}, loss {progress.loss:.2f}"
