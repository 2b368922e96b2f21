"""Run a training's steps in a thread and pass on their events."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from quail_audit.core.errors import EnvironmentProblemError, InterruptedRunError, QuailError
from quail_audit.schema.events.common import CheckpointSaved, Noted
from quail_audit.schema.events.lines import Event
from quail_train.training.assembly import assemble_trainer
from quail_train.training.work import Stop, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from quail_train.training.trainer import UnlearningTrainer


def make_steps(
    work: Work, model: PreTrainedModel, arguments: TrainingArguments, stop: Stop
) -> Generator[Event, None, int]:
    """Make the steps in a thread of their own, and pass their events on; at the end write the result.

    Returns:
        The last step made.

    Raises:
        InterruptedRunError: it was asked to stop; a checkpoint was saved.
        DivergedError: a term or the gradient is no finite number; the weights before that step were saved.
        EnvironmentProblemError: out of memory, or the disk is full.
    """
    told: SimpleQueue[Event | BaseException | None] = SimpleQueue()
    unmoved: list[int] = []
    trainer = assemble_trainer(work, model, arguments, told.put, stop, unmoved)
    yield from _precision_notes(work, model)

    def run() -> None:
        try:
            with _explained(trainer):
                trainer.train(resume_from_checkpoint=work.request.resume_from_checkpoint)
        except BaseException as error:
            told.put(error)
        else:
            told.put(None)

    thread = Thread(target=run, name="training")
    stop.in_steps = True
    thread.start()
    try:
        while (item := told.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.asked = stop.asked or thread.is_alive()  # whoever was reading has stopped
        thread.join()
        stop.in_steps = False
    step = trainer.state.global_step
    if stop.asked and (saved := trainer.checkpoint_folder()).exists():
        raise InterruptedRunError(
            f"stopped after step {step} of {work.plan.steps}",
            where=work.request.out,
            mend=f"Go on with the same command and --resume-from-checkpoint {saved}",
        )
    trainer.write_result(Path(work.request.out))
    if trainer.args.should_save:
        share = unmoved[-1] / sum(layer.weights for layer in work.layers)
        yield Noted(message=f"{100 * share:.2f} % of the trained weights are as before in the saved checkpoint")
        yield CheckpointSaved(step=step, folder=work.request.out, final=True)
    return step


@contextmanager
def _explained(trainer: UnlearningTrainer) -> Iterator[None]:
    """Say what went wrong in a step in the user's words, and keep the last good weights."""
    from quail_audit.engine.forgetting.models.batches import is_out_of_memory
    from quail_train.training.trainer import DivergedError

    try:
        yield
    except DivergedError as error:
        saved = trainer.save_to_resume()
        kept = f". The weights before it are in {saved}" if saved else ""
        raise DivergedError(error.message + kept, where=error.where, mend=error.mend) from error
    except QuailError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise EnvironmentProblemError(
            f"out of memory in step {trainer.state.global_step + 1}",
            mend="Lower --batch-size (or keep it and raise --gradient-accumulation-steps) or --max-length, train fewer "
            "--layers, or give --activation-checkpointing; docs/scaling.md has the arithmetic",
        ) from error


def _precision_notes(work: Work, model: PreTrainedModel) -> Iterator[Event]:
    from quail_train.training.model import unmovable_share

    if model.dtype.itemsize >= 4:
        return
    dtype = str(model.dtype).removeprefix("torch.")
    share = unmovable_share(model, work.request.learning_rate)
    yield Noted(
        message=f"the weights are trained in {dtype}: a step of the learning rate {work.request.learning_rate:g} is "
        f"rounded away for {100 * share:.1f} % of them. --dtype float32 keeps every step; with --bf16 it computes in "
        "bfloat16 all the same"
    )
