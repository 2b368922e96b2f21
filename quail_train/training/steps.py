"""Make a training's steps in a thread, and pass their events on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from quail_audit.core.errors import EnvironmentProblemError, InterruptedRunError, QuailError
from quail_audit.engine.forgetting.models.batches import is_out_of_memory
from quail_audit.schema.events.common import CheckpointSaved, Noted
from quail_audit.schema.events.lines import Event
from quail_train.training.assembly import assemble_trainer
from quail_train.training.model import unmovable_share
from quail_train.training.trainer import DivergedError, UnlearningTrainer
from quail_train.training.work import Stop, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


def make_steps(
    work: Work, model: PreTrainedModel, arguments: TrainingArguments, stop: Stop
) -> Generator[Event, None, int]:
    """Make the steps in a thread of their own, pass their events on, and write the result.

    Returns:
        The last step made.

    Raises:
        InterruptedRunError: the training was asked to stop; a checkpoint was saved.
        DivergedError: a term or the gradient is NaN or infinite; the weights before that step were saved.
        EnvironmentProblemError: out of memory, or the disk is full.
    """
    events: SimpleQueue[Event | BaseException | None] = SimpleQueue()
    trainer = assemble_trainer(work, model, arguments, events.put, stop)
    yield from _note_lost_steps(work, model)

    def run() -> None:
        try:
            with _explain_errors(trainer):
                trainer.train(resume_from_checkpoint=work.request.resume_from_checkpoint)
        except BaseException as error:
            events.put(error)
        else:
            events.put(None)

    thread = Thread(target=run, name="training")
    stop.in_steps = True
    thread.start()
    try:
        while (item := events.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.asked = stop.asked or thread.is_alive()  # the reader of the events has stopped
        thread.join()
        stop.in_steps = False
    step = trainer.state.global_step
    if stop.asked and (saved := trainer.checkpoint_folder()).exists():
        raise InterruptedRunError(
            f"stopped after step {step} of {work.batches.steps}",
            where=work.request.out,
            mend=f"Go on with the same command and --resume-from-checkpoint {saved}",
        )
    unmoved = trainer.write_result(Path(work.request.out))
    if unmoved is not None:
        share = unmoved / sum(layer.weights for layer in work.layers)
        yield Noted(message=f"{100 * share:.2f} % of the trained weights are as before in the saved checkpoint")
        yield CheckpointSaved(step=step, folder=work.request.out, final=True)
    return step


@contextmanager
def _explain_errors(trainer: UnlearningTrainer) -> Iterator[None]:
    """Turn a step's error into one that the user can act on, and save the last good weights."""
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


def _note_lost_steps(work: Work, model: PreTrainedModel) -> Iterator[Event]:
    """Note how many weights a step cannot change because their dtype is too coarse."""
    if model.dtype.itemsize >= 4:
        return
    dtype = str(model.dtype).removeprefix("torch.")
    share = unmovable_share(model, work.request.learning_rate)
    yield Noted(
        message=f"the weights are trained in {dtype}: a step of the learning rate {work.request.learning_rate:g} is "
        f"rounded away for {100 * share:.1f} % of them. --dtype float32 keeps every step; add --bf16 to still compute "
        "in bfloat16"
    )
