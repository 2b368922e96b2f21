"""Decide a training before it starts: its data, its layers, its margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.schema.events.training import TrainingPlanned
from quail_audit.schema.requests import TrainRequest
from quail_train.objectives.presets import Preset

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.interface import Scheme
    from quail_train.data.batches import Plan
    from quail_train.data.samples import TrainingData
    from quail_train.objectives.objective import Objective


def read_data(
    request: TrainRequest, preset: Preset, pair: Pair, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """What is trained on, as the model's task has it."""
    from quail_audit.engine.forgetting.data.rows import Columns
    from quail_audit.engine.forgetting.measurable import task_of
    from quail_train.data.labelled import read_labelled
    from quail_train.data.samples import read_training_data

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


def refuse_quantized(pair: Pair) -> None:
    for side in (pair.original, pair.unlearned):
        if side.scheme is not None:
            raise BadInputError(
                f"is quantized already ({side.scheme}); training changes weights in full precision",
                where=side.source,
                mend="Give the full-precision checkpoint that it was made from",
            )


def names_at_risk(request: TrainRequest) -> frozenset[str]:
    from quail_train.layers import AT_RISK, layers_at_risk

    if AT_RISK not in request.layers:
        return frozenset()
    if request.report is None:
        raise BadInputError(
            "which layers are at risk is told by an audit",
            where=f"--layers {AT_RISK}",
            mend="Name the audit's run folder with --report, or choose layers otherwise",
        )
    return layers_at_risk(request.report, request.scheme)


def decide(
    request: TrainRequest,
    preset: Preset,
    scheme: Scheme,
    pair: Pair,
    source: Checkpoint,
    layers: tuple[Layer, ...],
    data: TrainingData,
    planned: Plan,
) -> tuple[Objective, TrainingPlanned]:
    """The objective with its numbers, and the announcement of what will be done."""
    from quail_audit.engine.checkpoints.architecture import Matrix
    from quail_train.objectives.margin import half_step, quantization_step
    from quail_train.objectives.objective import Objective

    steps: dict[str, float] = {}
    margin = 0.0
    if preset.hinge:
        rounded = [layer for layer in layers if not scheme.why_left_alone(*layer.shape)]
        if not rounded:
            raise UsageError(
                f"{scheme.name} rounds none of the chosen layers: {scheme.why_left_alone(*layers[0].shape)}",
                where="--scheme",
                mend="Choose another scheme, or other layers",
            )
        for layer in rounded:
            weight = source.read_matrix(Matrix(layer.name, layer.transposed))
            steps[layer.name] = quantization_step(weight, scheme)
        auto = half_step(steps, {layer.name: layer.weights for layer in rounded})
        margin = (auto if request.margin_logits is None else request.margin_logits) * request.margin_scale
    objective = Objective(
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
    return objective, TrainingPlanned(
        steps=planned.steps,
        layers=tuple(layer.name for layer in layers),
        weights=sum(layer.weights for layer in layers),
        forget_samples=len(data.forget),
        retain_samples=len(data.retain),
        margin_logits=margin if preset.hinge else None,
        quantization_steps=steps,
    )
