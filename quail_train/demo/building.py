"""Build a demo's checkpoints, two models side by side, and report the progress."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from quail_train.demo.steps import Step  # torch: 1.6 s to import, not needed for a demo already built

DemoStage = Literal["tokenizer", "original", "retrain", "unlearned", "data"]
DATA = "data"

M = TypeVar("M", bound="PreTrainedModel")


@dataclass(frozen=True)
class DemoProgress:
    """Progress of the building.

    Attributes:
        stage: original and retrain are trained side by side, so their steps come mixed.
        step: from 1 to total.
        loss: loss of the step's batch, nats a token or a text; None if nothing is trained.
    """

    stage: DemoStage
    step: int
    total: int
    loss: float | None = None
    message: str = ""


def build_checkpoints(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    original: tuple[M, Iterator[Step]],
    reference: tuple[M, Iterator[Step]],
    unlearn: Callable[[M], Iterator[Step]],
) -> Iterator[DemoProgress]:
    """Make folder/original, folder/retrain and folder/unlearned.

    Args:
        folder: folder of the demo.
        tokenizer: tokenizer of all three.
        original: a model and the steps that teach it everything.
        reference: a model and the steps that teach it everything but the forget set.
        unlearn: returns the steps that make a copy of the original forget.

    Raises:
        EnvironmentProblemError: a checkpoint cannot be written, or unlearning failed.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        yield from _run_side_by_side(_report_stage("original", original[1]), _report_stage("retrain", reference[1]))
        _save(original[0], tokenizer, folder / "original")
        _save(reference[0], tokenizer, folder / "retrain")
        unlearned = copy.deepcopy(original[0])
        yield from _report_stage("unlearned", unlearn(unlearned))
        _save(unlearned, tokenizer, folder / "unlearned")
    finally:
        torch.set_num_threads(threads)


def _report_stage(stage: DemoStage, steps: Iterator[Step]) -> Generator[DemoProgress, None, None]:
    for step in steps:
        yield DemoProgress(stage, step.number, step.total, step.loss)


def _run_side_by_side(*works: Generator[DemoProgress, None, None]) -> Iterator[DemoProgress]:
    """Run each in a thread of its own, and yield their progress as it comes; the first error ends all.

    For models so small, one thread each is faster than two, and does not stall on shared cores.
    """
    made: SimpleQueue[DemoProgress | BaseException | None] = SimpleQueue()
    stopped = Event()

    def run(work: Generator[DemoProgress, None, None]) -> None:
        try:
            with closing(work):
                for progress in work:
                    made.put(progress)
                    if stopped.is_set():
                        return
        except BaseException as error:
            made.put(error)
        else:
            made.put(None)

    with ThreadPoolExecutor(len(works)) as pool:
        try:
            for work in works:
                pool.submit(run, work)
            running = len(works)
            while running:
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield item
        finally:
            stopped.set()


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    from quail_audit.engine.forgetting.models.quiet import quiet_transformers
    from quail_train.output.checkpoint import checkpoint_writable

    with checkpoint_writable(folder), quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
