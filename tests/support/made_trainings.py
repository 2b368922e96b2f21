"""Trainings without a model: their events, and `quail` commands that write them slowly, registered as plug-ins are."""

import math
import os
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from quail_audit.runs.names import EVENTS, REQUEST
from quail_audit.schema.events.audit import LayerMeasured
from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFinished
from quail_audit.schema.events.lines import Event, to_line
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted, TrainStep
from quail_audit.schema.requests import TrainRequest
from tests.support.places import ROOT

REQUESTED = TrainRequest(
    original="models/llama-news-7b", unlearned="models/llama-news-7b-unlearned", data="muse-news", out="repaired"
)


def training_events(request: TrainRequest = REQUESTED, *, steps: int = 60, until: int | None = None) -> Iterator[Event]:
    """A whole training, or its first steps."""
    rng = random.Random(0)
    yield TrainingStarted(
        quail_version="0.1.0",
        run_id="20260101-130000-cd34",
        started="2026-01-01T13:00:00+00:00",
        request=request,
        command=("quail", "train", request.original, request.unlearned, "--data", request.data, "--out", request.out),
        environment={"python": "3.11.7"},
    )
    names = tuple(f"model.layers.{block}.mlp.down_proj" for block in range(8, 32))
    yield TrainingPlanned(
        at_s=2.0,
        steps=steps,
        layers=names,
        weights=24 * 4096 * 11008,
        forget_samples=24,
        retain_samples=48,
        margin_logits=5.0,
        quantization_steps=dict.fromkeys(names, 0.0031),
    )
    yield Noted(at_s=2.0, message="0.4 % of the weights cannot move in bfloat16")
    for step in range(1, (until or steps) + 1):
        done = step / steps
        yield TrainStep(
            at_s=2.0 + step * 1.5,
            step=step,
            total=steps,
            epoch=5 * done,
            loss=4.0 * math.exp(-3 * done) + rng.gauss(0, 0.05),
            terms={
                "forget": -0.1 - 3.0 * done + rng.gauss(0, 0.1),
                "retain": 0.14 + 0.02 * rng.random(),
                "hinge": 4.8 * math.exp(-2 * done) + 0.1 * rng.random(),
                "l1": 120.0 * done,
            },
            hinge_satisfied=min(1.0, 0.02 + 0.9 * done),
            gradient_norm=1.0 + rng.random(),
            learning_rate=1e-4 * (1 - done),
        )
        if step % (steps // 3) == 0:
            forget = {"full": 20.0 - 10 * done, "nf4": 95.1 - 75 * done}
            yield TrainEval(at_s=2.0 + step * 1.5, step=step, scores={"verbmem_forget": forget})
            yield CheckpointSaved(at_s=2.0 + step * 1.5, step=step, folder=f"{request.out}/checkpoint-{step}")
    if until is None:
        yield CheckpointSaved(at_s=2.0 + steps * 1.5, step=steps, folder=request.out, final=True)
        yield RunFinished(at_s=2.0 + steps * 1.5, finished="2026-01-01T13:02:00+00:00", exit_code=0)


def write_training(folder: Path, made: Iterable[Event] | None = None) -> Path:
    """Write a training's folder as quail train does: all of its events, or those given."""
    folder.mkdir(parents=True, exist_ok=True)
    written = list(training_events() if made is None else made)
    (folder / REQUEST).write_text(REQUESTED.model_dump_json(indent=2))
    (folder / EVENTS).write_text("".join(to_line(event) + "\n" for event in written))
    return folder


def repaired(events: Iterable[Event]) -> Iterator[Event]:
    """The same audit, with every layer that was at risk carried."""
    for event in events:
        if isinstance(event, LayerMeasured) and event.layer.at_risk:
            carried = {"state": "carried", "at_risk": False, "overlap": 0.81, "survival": 0.96, "noise": 0.5}
            yield event.model_copy(update={"layer": event.layer.model_copy(update=carried)})
        else:
            yield event


def install_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Register commands under quail.commands, here and in processes started from here.

    They stand in the place of Quail's own entry points: importlib.metadata takes the first distribution of a name.

    Args:
        folder: where the package's metadata is written.
        monkeypatch: undoes it.
        commands: name -> "module:function"; none leaves Quail without plug-ins.
    """
    metadata = folder / "quail_audit-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: quail-audit\nVersion: 0.1.0\n")
    lines = [f"{name.replace('_', '-')} = {function}" for name, function in commands.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[quail.commands]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    sys.path_importer_cache.pop(str(folder), None)
