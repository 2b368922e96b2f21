"""Cures without a model: their events, written at once or slowly by commands that stand in for quail's own."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.runs.folder import new_run
from quail_audit.runs.names import EVENTS, REQUEST
from quail_audit.runs.record import record
from quail_audit.schema.events.common import CheckpointSaved, RunFinished
from quail_audit.schema.events.cures import AttributionPlanned, CarryPlanned, CureStarted, LayerCarried, UnitMeasured
from quail_audit.schema.events.lines import Event, to_line
from quail_audit.schema.requests import AttributeRequest, CarryRequest, CureRequest

PAIR = ("models/llama-news-7b", "models/llama-news-7b-unlearned")
CARRY = ("quail", "carry", *PAIR, "--out", "models/llama-news-7b-unlearned-carried", "--calibration", "muse-news")


def started(request: CureRequest, command: tuple[str, ...]) -> CureStarted:
    return CureStarted(
        quail_version="0.1.0",
        run_id="20260101-130000-cd34",
        started="2026-01-01T13:00:00+00:00",
        request=request,
        command=command,
        environment={},
    )


def carry_events(request: CarryRequest, layers: int = 72) -> Iterator[Event]:
    names = tuple(
        f"model.layers.{8 + number // 3}.mlp.{('gate', 'up', 'down')[number % 3]}_proj" for number in range(layers)
    )
    yield started(request, CARRY)
    yield CarryPlanned(at_s=9.0, layers=names, weights=layers * 4096 * 11008)
    for index, name in enumerate(names, start=1):
        yield LayerCarried(
            at_s=9.0 + 2.5 * index,
            index=index,
            total=layers,
            layer=name,
            weights=4096 * 11008,
            moved=0.2 + index / 1000,
            blocks=704_512,
            mended_blocks=0,
            survival_before=0.0,
            survival=0.7,
            noise=18.0,
            output_error=0.5 - index / 1000,
        )
    yield CheckpointSaved(at_s=200.0, folder=request.out, final=True)
    yield RunFinished(at_s=200.0, finished="2026-01-01T13:04:00+00:00", exit_code=0)


def write_carry(folder: Path) -> Path:
    """Write the folder of a carry as quail carry does."""
    request = CarryRequest(original=PAIR[0], unlearned=PAIR[1], out=CARRY[5], way="calibrated", calibrate="muse-news")
    folder.mkdir(parents=True)
    (folder / REQUEST).write_text(request.model_dump_json())
    (folder / EVENTS).write_text("".join(to_line(event) + "\n" for event in carry_events(request)))
    return folder


def carry(
    original: str,
    unlearned: str,
    out: Annotated[str, typer.Option()],
    run_dir: Annotated[Path, typer.Option()],
    scheme: Annotated[str, typer.Option()] = "nf4",
    calibrate: Annotated[str | None, typer.Option("--calibration")] = None,
    layers: Annotated[str, typer.Option()] = "erased",
    report: Annotated[str | None, typer.Option()] = None,
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
) -> int:
    """Write a carry's events; $MADE_CURE is fails, endless, or nothing."""
    request = CarryRequest(
        original=original,
        unlearned=unlearned,
        out=out,
        scheme=scheme,
        way="calibrated" if calibrate else "random",
        calibrate=calibrate,
        layers=(layers,),
        report=report,
    )
    goes = os.environ.get("MADE_CURE")
    return _written(run_dir, request, _slowly(carry_events(request, 3000 if goes == "endless" else 6), goes))


def attribute(
    run: Path,
    run_dir: Annotated[Path, typer.Option()],
    scheme: Annotated[str, typer.Option()] = "nf4",
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
) -> int:
    """Write the events of an attribution of one layer."""
    request = AttributeRequest(run=str(run), scheme=scheme)
    layer = "model.layers.0.self_attn.q_proj"
    unit = UnitMeasured(
        kind="layer",
        unit=layer,
        layers=(layer,),
        weights=1,
        mode="alone",
        nll=5.0,
        share=0.22,
        low=0.2,
        high=0.3,
        passes=3,
    )
    planned = AttributionPlanned(scheme=scheme, samples=24, nll_full=7.2, nll_rounded=0.3, units=1)
    end = RunFinished(finished="2026-01-01T13:01:00+00:00", exit_code=0)
    events = [started(request, ("quail", "attribute", str(run))), planned, unit, end]
    return _written(run_dir, request, iter(events))


def _slowly(events: Iterator[Event], goes: str | None) -> Iterator[Event]:
    for event in events:
        time.sleep(0.01)
        yield event
        if goes == "fails" and isinstance(event, LayerCarried):
            raise EnvironmentProblemError("the disk is full", where="carried", mend="Free some space")


def _written(folder: Path, request: CureRequest, events: Iterator[Event]) -> int:
    with new_run(folder, request) as made, closing(record(events, made)) as recorded:
        for _ in recorded:
            pass
    return 0
