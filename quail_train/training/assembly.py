"""Assemble the trainer: model, data, objective, watcher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval
from quail_train.training.work import Stop, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from quail_train.training.trainer import UnlearningTrainer


def assemble_trainer(
    work: Work,
    model: PreTrainedModel,
    arguments: TrainingArguments,
    emit: Callable[[Event], None],
    stop: Stop,
    unmoved: list[int],
) -> UnlearningTrainer:
    """The Trainer with everything it works on. unmoved takes, at each writing, how many weights are as before."""
    import torch
    from transformers import PrinterCallback

    from quail_audit.engine.checkpoints.architecture import Matrix
    from quail_audit.engine.forgetting.models.classifier import padding_id
    from quail_train.data.batches import PlannedSamples, collate
    from quail_train.output.checkpoint import write_checkpoint
    from quail_train.training.model import freeze_all_but
    from quail_train.training.original import load_original
    from quail_train.training.rounded_forward import RoundedForward
    from quail_train.training.saliency import salient_rows, update_only
    from quail_train.training.trainer import Trained, UnlearningTrainer
    from quail_train.training.watcher import Watcher

    modules = freeze_all_but(model, work.layers, lora=work.preset.lora)
    device = arguments.device
    matrices = {layer.name: Matrix(layer.name, layer.transposed) for layer in work.pair.layers}
    tensors = {name: work.source.layout.tensor_of[matrix.parameter] for name, matrix in matrices.items()}
    originals = {}
    if work.objective.l1_weight > 0:
        for layer in work.layers:
            parameter = matrices[layer.name].parameter
            stored = work.pair.original.read(work.pair.original.layout.tensor_of[parameter])
            originals[layer.name] = stored.to(device, model.dtype)
    rounding = None
    hinge_is_rounded = work.objective.hinge is not None and work.objective.hinge_precision == "quantized"
    if hinge_is_rounded or work.evaluation is not None:
        rounding = RoundedForward(
            {name: model.get_submodule(name) for name in tensors},
            work.pair.layers,
            work.scheme,
            {name: work.source.info(tensor).dtype for name, tensor in tensors.items()},
        )

        if arguments.activation_checkpointing:  # by us, as torch must be told which weights to compute with again
            contexts = {"use_reentrant": False, "context_fn": rounding.checkpoint_contexts}
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=contexts)
            arguments.activation_checkpointing = False

    def write(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
        new = {tensors[name]: weight for name, weight in weights.items()}
        unmoved.append(write_checkpoint(folder, work.source, new, work.tokenizer))

    if work.preset.saliency:
        torch.nn.Module.to(model, device)
        salient = salient_rows(model, modules, work.data.forget, batch_size=arguments.per_device_train_batch_size)
        update_only(modules, salient)
    original = None
    asks_forget, asks_retain = work.objective.original_is_asked_of
    if asks_forget or asks_retain:
        samples = (*work.data.forget, *(work.data.retain if asks_retain else ()))
        original, note = load_original(work.pair, work.request, device, samples, work.folder)
        if note:
            emit(Noted(message=note))
    trainer = UnlearningTrainer(
        model=model,
        args=arguments,
        train_dataset=PlannedSamples(work.data, work.plan),
        data_collator=partial(collate, padding=padding_id(model)),
        objective=work.objective,
        trained=Trained(modules, originals),
        original=original,
        rounding=rounding,
        emit=emit,
        write=write,
        request=work.request.model_dump_json(indent=2),
        samples_an_epoch=len(work.data.forget),
    )

    def look(step: int) -> bool:
        evaluation = work.evaluation
        if evaluation is None or rounding is None or (step % evaluation.every and step < work.plan.steps):
            return False
        scores = evaluation.scores(model, work.tokenizer, rounding)
        emit(TrainEval(step=step, scores=scores))
        return evaluation.target is not None and evaluation.target.reached(scores, work.scheme.name)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watcher(look, lambda: trainer.any_process(stop.asked)))
    return trainer
