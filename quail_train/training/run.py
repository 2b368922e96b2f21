"""A training from its request to its checkpoint, as an iterator of events. Shows nothing, stores no run.

Not here: the loss and the steps (trainer.py), what is trained on (data.py), what is written (output.py, card.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

import quail_audit
from quail_audit.core.clock import utc_now
from quail_audit.core.errors import BadInputError, EnvironmentProblemError, InterruptedRunError, QuailError, UsageError
from quail_audit.core.machine import describe_environment
from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted
from quail_audit.schema.requests import TrainRequest
from quail_train.objectives.presets import Preset, preset_named

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.interface import Scheme
    from quail_train.data.samples import Plan, TrainingData
    from quail_train.training.evaluation import Evaluation
    from quail_train.training.trainer import Objective, UnlearningTrainer

Events = Generator[Event, None, None]


@dataclass
class Stop:
    """How somebody asks a training to stop.

    Attributes:
        asked: stop after the step that is being made, with a checkpoint to go on from.
        in_steps: whether steps are being made; else the training can be interrupted at once.
    """

    asked: bool = False
    in_steps: bool = False


@dataclass(frozen=True, eq=False)
class Work:
    """What was opened and decided before the first step."""

    request: TrainRequest
    preset: Preset
    objective: Objective
    scheme: Scheme
    pair: Pair
    source: Checkpoint
    layers: tuple[Layer, ...]
    tokenizer: PreTrainedTokenizerBase
    data: TrainingData
    plan: Plan
    evaluation: Evaluation | None
    folder: Path


def train(request: TrainRequest, run_id: str, command: tuple[str, ...], stop: Stop, folder: Path) -> Events:
    """Train as the request says, and write the result to request.out.

    What can be refused is refused first: objective, scheme, layers, device, folders and data, before a step is made.

    Args:
        request: what to train.
        run_id: of the run.
        command: that repeats it, for the record.
        stop: how to end it early.
        folder: of the run; audits that are asked for get folders in it.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield TrainingStarted(
        quail_version=quail_audit.__version__,
        run_id=run_id,
        started=utc_now(),
        request=request,
        command=command,
        environment=describe_environment(),
    )
    from quail_audit.engine.checkpoints.pair import open_pair  # seconds to import, as is all that touches weights
    from quail_audit.engine.schemes.bitsandbytes import bitsandbytes
    from quail_audit.engine.schemes.registry import scheme_named

    bitsandbytes()  # the Trainer imports it, and not as quietly
    from quail_train.data.samples import plan
    from quail_train.layers import select_layers
    from quail_train.training.evaluation import evaluation_for
    from quail_train.training.model import (
        check_resumable,
        load_source,
        refuse_on_shards,
        refuse_other_tokenizer,
        shares,
        trainer_arguments,
    )

    preset = preset_named(request.objective)
    scheme = scheme_named(request.scheme)
    parts = shares(request)
    check_resumable(request)
    at_risk = _names_at_risk(request)
    pair = open_pair(request.original, request.unlearned)
    _refuse_quantized(pair)
    layers = select_layers(pair.layers, request.layers, at_risk)
    source = pair.unlearned if request.init == "unlearned" else pair.original
    refuse_other_tokenizer(pair)
    model, tokenizer, notes = load_source(source, pair, request)
    data = _read_data(request, preset, pair, model, tokenizer)
    planned = plan(
        data,
        batch_size=request.batch_size,
        epochs=request.epochs,
        max_steps=request.max_steps,
        processes=parts,
        seed=request.seed,
    )
    arguments = trainer_arguments(request, batch_size=planned.batch_size, steps=planned.steps)
    refuse_on_shards(request, preset, arguments)
    if preset.saliency and arguments.weight_decay:
        raise UsageError(
            "weight decay would move the rows that are to stay",
            where="--weight-decay",
            mend=f"Leave it out with the objective {preset.name}",
        )
    for note in (*pair.notes, *notes, *data.notes):
        yield Noted(message=note)

    objective, announced = _decide(request, preset, scheme, pair, source, layers, data, planned)
    yield announced
    evaluation = evaluation_for(request, pair, round(len(data.forget) / planned.batch_size))
    work = Work(request, preset, objective, scheme, pair, source, layers, tokenizer, data, planned, evaluation, folder)
    step = yield from _make_steps(work, model, arguments, stop)
    del model
    exit_code = yield from _say_what_it_is(request, announced, command, step, folder)
    yield RunFinished(finished=utc_now(), exit_code=exit_code)


def _read_data(
    request: TrainRequest, preset: Preset, pair: Pair, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """What is trained on, as the model's task has it."""
    from quail_audit.engine.forgetting.data.folder import Columns
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


def _say_what_it_is(
    request: TrainRequest, planned: TrainingPlanned, command: tuple[str, ...], step: int, folder: Path
) -> Generator[Event, None, int]:
    """Write the model card; audit the result where it is asked for, and write the card again with its scores.

    Returns:
        The exit code: the audit's, 0 without one.
    """
    from quail_train.output.training_card import write_card
    from quail_train.training.processes import is_main_process

    if not is_main_process():
        return 0
    write_card(Path(request.out), request, planned, command, steps=step, evals=())
    if not request.audit:
        return 0
    from quail_train.training.audits import before_and_after

    evals = []
    for scores, report in before_and_after(request, step, folder):
        evals.append(scores)
        audited = report
        yield scores
    write_card(Path(request.out), request, planned, command, steps=step, evals=tuple(evals))
    if audited.verdict is not None:
        reasons = "; ".join(reason.message for reason in audited.verdict.reasons)
        yield Noted(message=f"the audit of the result: {audited.verdict.outcome}: {reasons}")
    return audited.exit_code or 0


def _refuse_quantized(pair: Pair) -> None:
    for side in (pair.original, pair.unlearned):
        if side.scheme is not None:
            raise BadInputError(
                f"is quantized already ({side.scheme}); training changes weights in full precision",
                where=side.source,
                mend="Give the full-precision checkpoint that it was made from",
            )


def _names_at_risk(request: TrainRequest) -> frozenset[str]:
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


def _decide(
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
    from quail_train.training.trainer import Objective

    steps: dict[str, float] = {}
    margin = 0.0
    if preset.hinge:
        rounded = [layer for layer in layers if not scheme.why_not(*layer.shape)]
        if not rounded:
            raise UsageError(
                f"{scheme.name} rounds none of the chosen layers: {scheme.why_not(*layers[0].shape)}",
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


def _make_steps(
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
    trainer = _trainer(work, model, arguments, told.put, stop, unmoved)
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


def _trainer(
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
    from quail_train.data.samples import PlannedSamples, collate
    from quail_train.output.checkpoint import write_checkpoint
    from quail_train.training.model import freeze_all_but
    from quail_train.training.original import load_original
    from quail_train.training.rounded_forward import RoundedForward
    from quail_train.training.saliency import salient_rows, update_only
    from quail_train.training.trainer import Trained, UnlearningTrainer, Watcher

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
