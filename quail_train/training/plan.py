"""Open and decide everything that a training needs, before its first step."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.checkpoints.pair import Layer, Pair, open_pair
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.measurable import task_of
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainingPlanned
from quail_audit.schema.requests import TrainRequest
from quail_train.data.batches import plan_batches
from quail_train.data.labelled import read_labelled
from quail_train.data.samples import TrainingData, read_training_data
from quail_train.layers import names_at_risk, refuse_experts, select_layers
from quail_train.objectives.margin import half_step, quantization_step
from quail_train.objectives.objective import Objective
from quail_train.objectives.presets import Preset, preset_named
from quail_train.training.arguments import batch_parts, check_resumable, refuse_on_shards, trainer_arguments
from quail_train.training.evaluation import evaluation_of
from quail_train.training.model import load_source, refuse_other_tokenizer
from quail_train.training.original import check_vocabulary
from quail_train.training.work import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.schemes.interface import Scheme


def prepare_work(
    request: TrainRequest, folder: Path
) -> Generator[Event, None, tuple[Work, PreTrainedModel, TrainingArguments]]:
    """Open the checkpoints and the data, and decide layers, margin and steps.

    Args:
        request: what to train.
        folder: folder of the run.

    Returns:
        The work, the model that training begins with, and the Trainer's arguments.

    Raises:
        QuailError: the request cannot be carried out: says why.
    """
    preset = preset_named(request.objective)
    scheme = scheme_named(request.scheme)
    parts = batch_parts(request)
    check_resumable(request)
    at_risk = names_at_risk(request.layers, request.report, request.scheme)
    pair = open_pair(request.original, request.unlearned)
    _refuse_quantized(pair)
    layers = select_layers(pair.layers, request.layers, at_risk)
    refuse_experts(layers, pair.layers, "train")
    if any(layer.part is not None for layer in pair.layers):
        yield Noted(message="experts are neither trained nor rounded in training, and stay as they are")
        pair = replace(pair, layers=tuple(layer for layer in pair.layers if layer.part is None))
    source = pair.unlearned if request.init == "unlearned" else pair.original
    refuse_other_tokenizer(pair)
    model, tokenizer, notes = load_source(source, pair, request)
    data = _read_data(request, preset, pair, model, tokenizer)
    batches = plan_batches(
        data,
        batch_size=request.batch_size,
        epochs=request.epochs,
        max_steps=request.max_steps,
        parts=parts,
        seed=request.seed,
    )
    arguments = trainer_arguments(request, batch_size=batches.batch_size, steps=batches.steps)
    refuse_on_shards(request, preset, arguments)
    _refuse_weight_decay(preset, arguments)
    steps = _quantization_steps(layers, scheme, source) if preset.hinge else {}
    margin = _margin(request, layers, steps) if preset.hinge else None
    objective = _objective(request, preset, margin or 0.0)
    asked = data.samples_for_original(*objective.needs_original_on)
    compared = check_vocabulary(pair, model, tokenizer, asked, request.data) if asked else ()
    for note in (*pair.notes, *compared, *notes, *data.notes):
        yield Noted(message=note)
    planned = TrainingPlanned(
        steps=batches.steps,
        layers=tuple(layer.name for layer in layers),
        weights=sum(layer.weights for layer in layers),
        forget_samples=len(data.forget),
        retain_samples=len(data.retain),
        margin_logits=margin,
        quantization_steps=steps,
    )
    yield planned
    work = Work(
        request=request,
        preset=preset,
        objective=objective,
        scheme=scheme,
        pair=pair,
        source=source,
        layers=layers,
        tokenizer=tokenizer,
        data=data,
        batches=batches,
        planned=planned,
        evaluation=evaluation_of(request, pair, round(len(data.forget) / batches.batch_size)),
        folder=folder,
    )
    return work, model, arguments


def _refuse_quantized(pair: Pair) -> None:
    for side in (pair.original, pair.unlearned):
        if side.scheme is not None:
            raise BadInputError(
                f"is quantized already ({side.scheme}); training changes weights in full precision",
                where=side.source,
                mend="Give the full-precision checkpoint that it was made from",
            )


def _refuse_weight_decay(preset: Preset, arguments: TrainingArguments) -> None:
    if preset.saliency and arguments.weight_decay:
        raise UsageError(
            "weight decay would move the rows that must not change",
            where="--weight-decay",
            mend=f"Leave it out with the objective {preset.name}",
        )


def _read_data(
    request: TrainRequest, preset: Preset, pair: Pair, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """Read the forget and retain sets for the model's task."""
    needed_by = preset.name if preset.retain else None
    columns = Columns(request.text_column, request.label_column)
    if task_of(pair.original) == "classification":
        return read_labelled(
            request.data,
            pair,
            model,
            tokenizer,
            columns=columns,
            max_length=request.max_length,
            retain_needed_by=needed_by,
            seed=request.seed,
        )
    if preset.forget == "relabel":
        raise UsageError(
            f"{preset.name} is for classifiers, and {pair.original.source} is a language model",
            where="--objective",
            mend="Choose another forget term: ga, npo, simnpo, hinge",
        )
    return read_training_data(
        request.data, tokenizer, pair, max_length=request.max_length, retain_needed_by=needed_by, columns=columns
    )


def _quantization_steps(layers: Sequence[Layer], scheme: Scheme, source: Checkpoint) -> dict[str, float]:
    """Return the step of each layer that the scheme rounds.

    Raises:
        UsageError: it rounds none of them.
    """
    rounded = [layer for layer in layers if not scheme.why_left_alone(*layer.shape)]
    if not rounded:
        raise UsageError(
            f"{scheme.name} rounds none of the chosen layers: {scheme.why_left_alone(*layers[0].shape)}",
            where="--scheme",
            mend="Choose another scheme, or other layers",
        )
    return {layer.name: quantization_step(source.read_matrix(layer.matrix), scheme) for layer in rounded}


def _margin(request: TrainRequest, layers: Sequence[Layer], steps: Mapping[str, float]) -> float:
    """Return the hinge's margin in logits: the one asked for, else half the mean quantization step; scaled."""
    margin = request.margin_logits
    if margin is None:
        margin = half_step(steps, {layer.name: layer.weights for layer in layers if layer.name in steps})
    return margin * request.margin_scale


def _objective(request: TrainRequest, preset: Preset, margin: float) -> Objective:
    return Objective(
        forget=preset.forget,
        retain=preset.retain,
        hinge=request.hinge if preset.hinge else None,
        hinge_precision=request.hinge_precision,
        hinge_weight=request.hinge_weight,
        retain_weight=request.retain_weight,
        l1_weight=request.l1_weight if preset.l1 else 0.0,
        margin=margin,
        forget_loss_cap=request.forget_loss_cap,
    )
