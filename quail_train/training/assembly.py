"""Assemble the trainer: model, data, objective, frozen original, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import PrinterCallback

from quail_audit.engine.forgetting.models.classifier import padding_id
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval
from quail_train.data.batches import PlannedSamples, collate
from quail_train.output.checkpoint import write_checkpoint
from quail_train.training.model import freeze_all_but
from quail_train.training.original import Original, load_original
from quail_train.training.rounded_forward import RoundedForward
from quail_train.training.saliency import salient_rows, update_only
from quail_train.training.trainer import TrainedLayers, UnlearningTrainer
from quail_train.training.watcher import Watcher
from quail_train.training.work import Stop, Work

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer

Emit = Callable[[Event], None]


def assemble_trainer(
    work: Work, model: PreTrainedModel, arguments: TrainingArguments, emit: Emit, stop: Stop
) -> UnlearningTrainer:
    """Return the Trainer with everything that it works on; its events go to `emit`."""
    modules = freeze_all_but(model, work.layers, lora=work.preset.lora)
    layers = TrainedLayers(modules, _original_weights(work, model, arguments))
    rounding = _round_forward(work, model, arguments)
    if work.preset.saliency:
        nn.Module.to(model, arguments.device)
        update_only(
            modules,
            salient_rows(model, modules, work.data.forget, batch_size=arguments.per_device_train_batch_size),
        )
    trainer = UnlearningTrainer(
        model=model,
        args=arguments,
        train_dataset=PlannedSamples(work.data, work.batches),
        data_collator=partial(collate, padding=padding_id(model)),
        objective=work.objective,
        layers=layers,
        original=_load_original(work, arguments, emit),
        rounding=rounding,
        emit=emit,
        write=partial(_write, work, _tensor_names(work.source, work.pair.layers)),
        request=work.request.model_dump_json(indent=2),
        samples_an_epoch=len(work.data.forget),
    )
    trainer.remove_callback(PrinterCallback)
    evaluate = partial(_evaluate, work, model, rounding, emit)
    trainer.add_callback(Watcher(evaluate, lambda: trainer.any_process(stop.asked)))
    return trainer


def _tensor_names(checkpoint: Checkpoint, layers: Sequence[Layer]) -> dict[str, str]:
    """Return each layer's tensor in the checkpoint's files."""
    return {layer.name: checkpoint.layout.tensor_of[layer.matrix.parameter] for layer in layers}


def _original_weights(work: Work, model: PreTrainedModel, arguments: TrainingArguments) -> dict[str, torch.Tensor]:
    """Return the original's weights of the trained layers, if the objective has an L1 term."""
    if work.objective.l1_weight <= 0:
        return {}
    original = work.pair.original
    return {
        name: original.read(tensor).to(arguments.device, model.dtype)
        for name, tensor in _tensor_names(original, work.layers).items()
    }


def _round_forward(work: Work, model: PreTrainedModel, arguments: TrainingArguments) -> RoundedForward | None:
    """Let the model compute with rounded weights, if the hinge or the evaluation needs it."""
    if not work.objective.hinge_is_rounded and work.evaluation is None:
        return None
    dtypes = {
        name: work.source.info(tensor).dtype for name, tensor in _tensor_names(work.source, work.pair.layers).items()
    }
    rounding = RoundedForward(
        {name: model.get_submodule(name) for name in dtypes}, work.pair.layers, work.scheme, dtypes
    )
    if arguments.activation_checkpointing:  # switched on here: torch must know which weights to recompute with
        contexts = {"use_reentrant": False, "context_fn": rounding.checkpoint_contexts}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=contexts)
        arguments.activation_checkpointing = False
    return rounding


def _load_original(work: Work, arguments: TrainingArguments, emit: Emit) -> Original | None:
    samples = work.data.samples_for_original(*work.objective.needs_original_on)
    if not samples:
        return None
    original, note = load_original(work.pair, work.request, arguments.device, samples, work.folder)
    if note:
        emit(Noted(message=note))
    return original


def _write(work: Work, tensors: Mapping[str, str], folder: Path, weights: Mapping[str, torch.Tensor]) -> int:
    """Write the model with these weights. Return how many of them training did not change."""
    new = {tensors[name]: weight for name, weight in weights.items()}
    return write_checkpoint(folder, work.source, new, work.tokenizer)


def _evaluate(work: Work, model: PreTrainedModel, rounding: RoundedForward | None, emit: Emit, step: int) -> bool:
    """Evaluate the model if it is time to. Return True if the target is reached."""
    evaluation = work.evaluation
    if evaluation is None or rounding is None or (step % evaluation.every and step < work.batches.steps):
        return False
    scores = evaluation.scores(model, work.tokenizer, rounding)
    emit(TrainEval(step=step, scores=scores))
    return evaluation.target is not None and evaluation.target.is_reached(scores, work.scheme.name)
