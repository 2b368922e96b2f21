"""What building a demo's parts has in common: how far it is, two models trained side by side, files written.

Not here: the folder and whether it is used again (demo.py), and the parts (demo_language.py, demo_classification.py).
"""

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
    """Where the building is.

    Attributes:
        stage: original and retrain are trained side by side, so their steps come mixed.
        step: of total, from 1.
        loss: of the step's batch, nats a token or a text; None where nothing is trained.
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
        folder: of the demo.
        tokenizer: that goes with each.
        original: a model and the steps that teach it everything.
        reference: the same, without the forget set.
        unlearn: the steps that make a copy of the original forget.

    Raises:
        EnvironmentProblemError: a checkpoint cannot be written, or as unlearn does.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        yield from _side_by_side(_of_stage("original", original[1]), _of_stage("retrain", reference[1]))
        _save(original[0], tokenizer, folder / "original")
        _save(reference[0], tokenizer, folder / "retrain")
        unlearned = copy.deepcopy(original[0])
        yield from _of_stage("unlearned", unlearn(unlearned))
        _save(unlearned, tokenizer, folder / "unlearned")
    finally:
        torch.set_num_threads(threads)


def _of_stage(stage: DemoStage, steps: Iterator[Step]) -> Generator[DemoProgress, None, None]:
    for step in steps:
        yield DemoProgress(stage, step.number, step.total, step.loss)


def _side_by_side(*works: Generator[DemoProgress, None, None]) -> Iterator[DemoProgress]:
    """Run each in a thread of its own, and pass on what they yield as it comes; the first error ends all.

    One thread for each model is faster than two for one so small, and does not stall where cores are shared.
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


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
