"""Commands as a package would add them: a `train` and an audit that measure nothing and write their events slowly.

$MADE_TRAINING says how the training goes: finished, diverges, raises, or endless.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from quail_audit.core.errors import EnvironmentProblemError, InterruptedRunError
from quail_audit.runs.folder import new_run
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import RunStarted
from quail_audit.schema.events.common import CheckpointSaved, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainStep
from quail_audit.schema.requests import TrainRequest
from tests.support.made_runs import events as audit_events
from tests.support.made_trainings import repaired, training_events


def train(
    original: str,
    unlearned: str,
    data: Annotated[str, typer.Option()],
    out: Annotated[str, typer.Option()],
    run_dir: Annotated[Path, typer.Option()],
    objective: Annotated[str, typer.Option()] = "ga_gdr_l1_hinge",
    layers: Annotated[list[str], typer.Option()] = ["all"],  # noqa: B006 - typer copies it
    report: Annotated[str | None, typer.Option()] = None,
    epochs: Annotated[float, typer.Option()] = 5.0,
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
) -> int:
    """Write a training's events."""
    request = TrainRequest(
        original=original,
        unlearned=unlearned,
        data=data,
        out=out,
        objective=objective,
        layers=tuple(layers),
        report=report,
        epochs=epochs,
    )
    return _written(run_dir, request, _training(request, os.environ.get("MADE_TRAINING", "finished")))


def _training(request: TrainRequest, goes: str) -> Iterator[Event]:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    for event in training_events(request, steps=30 if goes != "endless" else 3000):
        time.sleep(0.01)
        yield event
        step = event.step if isinstance(event, TrainStep) else 0
        if asked:
            saved = f"{request.out}/checkpoint-{step}"
            yield CheckpointSaved(step=step, folder=saved)
            raise InterruptedRunError(f"stopped after step {step}", where=request.out, mend="Go on from there")
        if goes == "diverges" and step == 5:
            message = "the forget term became NaN at step 5"
            raise EnvironmentProblemError(message, mend="Lower --learning-rate, or cap the forget loss")
        if goes == "raises" and step == 5:
            raise ZeroDivisionError("by hand")


def made_audit(
    run_dir: Annotated[Path, typer.Option()], quiet: Annotated[bool, typer.Option("--quiet")] = False
) -> int:
    """Write the audit of a repaired checkpoint."""
    made = list(repaired(audit_events(outcome="pass")))
    assert isinstance(made[0], RunStarted)
    return _written(run_dir, made[0].request, _slowly(made))


def _slowly(events: list[Event]) -> Iterator[Event]:
    for number, event in enumerate(events):
        if number % 20 == 0:
            time.sleep(0.01)
        yield event


def _written(folder: Path, request: Any, events: Iterator[Event]) -> int:
    code = 0
    with new_run(folder, request) as made, closing(record(events, made)) as recorded:
        for event in recorded:
            code = event.exit_code if isinstance(event, RunFinished) else code
    return code
