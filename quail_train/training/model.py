"""Gets ready what a training works with: the arguments of the Trainer, and the model.

Not here: the steps (trainer.py), the data (data.py), and the frozen original (original.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from pydantic import ValidationError
from torch import nn
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.forgetting.models.device import find_device, find_dtype
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_audit.engine.forgetting.models.tokenizer import TOKENIZER_FILES
from quail_train.training.processes import processes

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.schema.requests import TrainRequest
    from quail_train.objectives.presets import Preset

# Of transformers' arguments, those that quail train sets by options of its own.
OWN_ARGUMENTS = frozenset(
    {
        "output_dir", "overwrite_output_dir", "num_train_epochs", "max_steps", "learning_rate", "seed", "data_seed",
        "per_device_train_batch_size", "resume_from_checkpoint", "use_cpu", "logging_steps", "logging_strategy",
        "logging_nan_inf_filter", "disable_tqdm", "remove_unused_columns", "average_tokens_across_devices",
        "do_train", "do_eval", "do_predict", "eval_strategy", "eval_steps",
    }
)  # fmt: skip
# Of a request, what may change when a training goes on from a checkpoint.
MAY_DIFFER = frozenset({"resume_from_checkpoint", "report", "device", "audit", "out"})
LORA_RANK = 16
LORA_ALPHA = 32


class _Parser(HfArgumentParser):
    """Says what is wrong instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, mend="See quail train --help; other options are those of transformers' Trainer")


def trainer_arguments(request: TrainRequest, *, batch_size: int, steps: int) -> TrainingArguments:
    """transformers' arguments of a request.

    Args:
        request: its `trainer` are arguments by transformers' names.
        batch_size: forget samples a step, over all processes and accumulated batches.
        steps: to make.

    Raises:
        UsageError: an argument that the Trainer does not have, or a value that it does not take.
    """
    own = {
        "output_dir": request.out,
        "learning_rate": repr(request.learning_rate),
        "max_steps": str(steps),
        "seed": str(request.seed),
        "logging_strategy": "steps",
        "logging_steps": "1",
        "logging_nan_inf_filter": "False",
        "disable_tqdm": "True",
        "remove_unused_columns": "False",
        "average_tokens_across_devices": "False",
        "dataloader_pin_memory": "False",
        "save_strategy": "steps" if "save_steps" in request.trainer else "no",
        "report_to": "none",
        "per_device_train_batch_size": str(batch_size // shares(request)),
        "use_cpu": str(_use_cpu(request.device)),
    }
    listed = [part for name, value in {**own, **request.trainer}.items() for part in (f"--{name}", value) if part]
    try:
        (arguments,) = _Parser(TrainingArguments).parse_args_into_dataclasses(args=listed)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UsageError(str(error).strip().splitlines()[0], mend="See transformers' TrainingArguments") from error
    found: TrainingArguments = arguments
    if found.n_gpu > 1:
        found._n_gpu = 1  # several GPUs are for several processes: accelerate launch or torchrun
    return found


def shares(request: TrainRequest) -> int:
    """Into how many equal parts a step's samples are dealt: processes x accumulated batches.

    Raises:
        UsageError: an argument that quail train sets itself, or a number that is none.
    """
    if taken := sorted(OWN_ARGUMENTS & set(request.trainer)):
        raise UsageError(
            f"{taken[0]} is set by quail train itself", where=f"--{taken[0]}", mend="See quail train --help"
        )
    accumulated = request.trainer.get("gradient_accumulation_steps", "1")
    if not accumulated.isdecimal() or int(accumulated) < 1:
        raise UsageError("should be a number from 1", where="--gradient-accumulation-steps")
    return processes() * int(accumulated)


def _use_cpu(device: str) -> bool:
    found = find_device(device)
    if found.type == "cuda" and found.index is not None and device != "auto" and processes() == 1:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(found)
    return found.type == "cpu"


def refuse_on_shards(request: TrainRequest, preset: Preset, arguments: TrainingArguments) -> None:
    """Refuse what needs a layer's weight whole, where FSDP or DeepSpeed cuts the weights up.

    Raises:
        UsageError: says what.
    """
    sharded = any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
    if not (sharded or arguments.fsdp or arguments.deepspeed):
        return
    needs_whole = {
        "--hinge-precision quantized": preset.hinge and request.hinge_precision == "quantized",
        f"--objective {preset.name}": preset.saliency or preset.lora or (preset.l1 and request.l1_weight > 0),
        "--eval-steps and targets": request.eval_steps is not None
        or request.target_forget is not None
        or request.target_retain is not None,
        "--resume-from-checkpoint": request.resume_from_checkpoint is not None,
    }
    for option, needed in needs_whole.items():
        if needed:
            raise UsageError(
                "needs whole weights, which FSDP and DeepSpeed cut up",
                where=option,
                mend="Train without sharding (fewer --layers, --reference precomputed), or without it; docs/scaling.md",
            )


def refuse_other_tokenizer(pair: Pair) -> None:
    """Where both checkpoints have a tokenizer, they must give the same tokens, or logits cannot be compared.

    Raises:
        BadInputError: they don't.
    """
    vocabularies = []
    for checkpoint in (pair.original, pair.unlearned):
        if not any((checkpoint.folder / name).exists() for name in TOKENIZER_FILES):
            return
        with quiet_transformers():
            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(
                    checkpoint.folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # the files are anybody's
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise BadInputError(
                    f"the tokenizer cannot be read: {lines[0]}", where=str(checkpoint.folder)
                ) from error
        vocabularies.append(tokenizer.get_vocab())
    first, second = vocabularies
    if first != second:
        differing = len(set(first.items()) ^ set(second.items()))
        raise BadInputError(
            f"its tokenizer is not that of {pair.original.source}: {differing} entries of the vocabularies differ",
            where=str(pair.unlearned.folder),
            mend="Both checkpoints must read the same tokens; copy the original's tokenizer files",
        )


def load_source(
    source: Checkpoint, pair: Pair, request: TrainRequest
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """The model that training begins with, on the CPU in the dtype of training, its tokenizer, and notes.

    Raises:
        QuailError: it cannot be loaded.
    """
    dtype = find_dtype(request.dtype) or torch.float32
    arm = load_arm(
        source,
        None,
        layers=pair.layers,
        device="cpu",
        dtype=str(dtype).removeprefix("torch."),
        tokenizer_of=pair.original if source is pair.unlearned else pair.unlearned,
    )
    _refuse_foreign_tokens(arm.model, arm.tokenizer, str(source.folder))
    _still_dropout(arm.model)
    return arm.model, arm.tokenizer, arm.notes


def _refuse_foreign_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    embeddings: Any = model.get_input_embeddings()
    known: int = embeddings.weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= known:
        raise BadInputError(
            f"the tokenizer does not belong to this model: it gives token {largest}, the model knows {known}",
            where=where,
            mend="Put the model's own tokenizer files beside its weights",
        )


def _still_dropout(model: PreTrainedModel) -> None:
    """Turn dropout off: the loss compares logits with the original's, and noise is no forgetting."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def freeze_all_but(model: PreTrainedModel, layers: Sequence[Layer], *, lora: bool) -> dict[str, nn.Module]:
    """Let only these layers' weights move, or LoRA's on them; layer -> what stands in the model in its place."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if lora:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            target_modules=[layer.name for layer in layers],
            fan_in_fan_out=all(layer.transposed for layer in layers),
        )
        inject_adapter_in_model(config, model)
        return {layer.name: model.get_submodule(layer.name) for layer in layers}
    modules = {layer.name: model.get_submodule(layer.name) for layer in layers}
    for module in modules.values():
        weight: Any = module.weight
        weight.requires_grad_(True)
    return modules


def check_resumable(request: TrainRequest) -> None:
    """Refuse to go on from what is no checkpoint of the same training.

    Raises:
        BadInputError: there is none, or it was trained otherwise: which setting differs.
    """
    if request.resume_from_checkpoint is None:
        return
    from quail_audit.schema.requests import TrainRequest as Request
    from quail_train.training.trainer import MASTER_WEIGHTS, REQUEST

    folder = Path(request.resume_from_checkpoint)
    absent = [name for name in (REQUEST, MASTER_WEIGHTS, "trainer_state.json") if not (folder / name).is_file()]
    if absent:
        raise BadInputError(
            f"is no checkpoint to go on from: {absent[0]} is missing",
            where=str(folder),
            mend="Name a folder checkpoint-N that quail train left in its --out",
        )
    try:
        before = Request.model_validate_json((folder / REQUEST).read_bytes())
    except ValidationError as error:
        raise BadInputError("is no request of a training", where=str(folder / REQUEST)) from error
    for name in Request.model_fields:
        if name not in MAY_DIFFER and getattr(before, name) != getattr(request, name):
            raise BadInputError(
                f"was trained with {name} = {getattr(before, name)!r}, not {getattr(request, name)!r}",
                where=str(folder),
                mend="Give the options that it was begun with",
            )


def unmovable_share(model: PreTrainedModel, learning_rate: float) -> float:
    """Of the weights that are trained, the share that one AdamW step cannot change in their own dtype.

    A step moves a weight by about the learning rate, whatever its gradient (Kingma and Ba, arXiv 1412.6980, section
    2.1). Where that is under half the distance to the weight's neighbours, it is rounded away.
    """
    stuck, total = 0, 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            weight = parameter.detach()
            stuck += int(((weight + learning_rate == weight) & (weight - learning_rate == weight)).sum())
            total += weight.numel()
    return stuck / total
