"""Make the Trainer's arguments from a request, and refuse what cannot work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError
from transformers import HfArgumentParser, TrainingArguments

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.forgetting.models.device import find_device
from quail_audit.schema.requests import TrainRequest
from quail_train.training.processes import process_count
from quail_train.training.trainer import MASTER_WEIGHTS, REQUEST

if TYPE_CHECKING:
    from quail_train.objectives.presets import Preset


# Arguments of transformers that quail train sets by options of its own.
OWN_ARGUMENTS = frozenset(
    {
        "output_dir", "overwrite_output_dir", "num_train_epochs", "max_steps", "learning_rate", "seed", "data_seed",
        "per_device_train_batch_size", "resume_from_checkpoint", "use_cpu", "logging_steps", "logging_strategy",
        "logging_nan_inf_filter", "disable_tqdm", "remove_unused_columns", "average_tokens_across_devices",
        "do_train", "do_eval", "do_predict", "eval_strategy", "eval_steps",
    }
)  # fmt: skip


# Settings that may change when a training resumes from a checkpoint.
MAY_DIFFER = frozenset({"resume_from_checkpoint", "report", "device", "audit", "out"})


class _Parser(HfArgumentParser):
    """A parser that raises an error instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, mend="See quail train --help; further options are those of transformers' Trainer")


def trainer_arguments(request: TrainRequest, *, batch_size: int, steps: int) -> TrainingArguments:
    """Return the request as transformers' arguments.

    Args:
        request: its `trainer` holds arguments by transformers' names.
        batch_size: forget samples of a step, over all processes and accumulated batches.
        steps: number of steps.

    Raises:
        UsageError: the Trainer does not have an argument, or does not take its value.
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
        "per_device_train_batch_size": str(batch_size // batch_parts(request)),
        "use_cpu": str(_use_cpu(request.device)),
    }
    listed = [part for name, value in {**own, **request.trainer}.items() for part in (f"--{name}", value) if part]
    try:
        (arguments,) = _Parser(TrainingArguments).parse_args_into_dataclasses(args=listed)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UsageError(str(error).strip().splitlines()[0], mend="See transformers' TrainingArguments") from error
    found: TrainingArguments = arguments
    if found.n_gpu > 1:
        found._n_gpu = 1  # several GPUs need several processes: accelerate launch or torchrun
    return found


def batch_parts(request: TrainRequest) -> int:
    """Return the number of equal parts that a step's samples are split into: processes x accumulated batches.

    Raises:
        UsageError: quail train sets an argument itself, or the number of accumulated batches is not a number.
    """
    if taken := sorted(OWN_ARGUMENTS & set(request.trainer)):
        raise UsageError(
            f"{taken[0]} is set by quail train itself", where=f"--{taken[0]}", mend="See quail train --help"
        )
    accumulated = request.trainer.get("gradient_accumulation_steps", "1")
    if not accumulated.isdecimal() or int(accumulated) < 1:
        raise UsageError("must be a whole number, 1 or more", where="--gradient-accumulation-steps")
    return process_count() * int(accumulated)


def _use_cpu(device: str) -> bool:
    """Return True if the device is the CPU; tell accelerate which GPU if one is named."""
    found = find_device(device)
    if found.type == "cuda" and found.index is not None and device != "auto" and process_count() == 1:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(found)
    return found.type == "cpu"


def refuse_on_shards(request: TrainRequest, preset: Preset, arguments: TrainingArguments) -> None:
    """Refuse what needs whole weights if FSDP or DeepSpeed shards them.

    Raises:
        UsageError: says which option.
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
                "needs unsharded weights; FSDP and DeepSpeed shard them",
                where=option,
                mend="Leave it out, or do without sharding: fewer --layers, --reference precomputed; docs/scaling.md",
            )


def check_resumable(request: TrainRequest) -> None:
    """Refuse to resume from anything but a checkpoint of the same training.

    Raises:
        BadInputError: there is no checkpoint, or a setting differs: says which.
    """
    if request.resume_from_checkpoint is None:
        return
    folder = Path(request.resume_from_checkpoint)
    absent = [name for name in (REQUEST, MASTER_WEIGHTS, "trainer_state.json") if not (folder / name).is_file()]
    if absent:
        raise BadInputError(
            f"not a checkpoint to resume from: {absent[0]} is missing",
            where=str(folder),
            mend="Name a folder checkpoint-N that quail train wrote into its --out",
        )
    try:
        before = TrainRequest.model_validate_json((folder / REQUEST).read_bytes())
    except ValidationError as error:
        raise BadInputError("not a training's request", where=str(folder / REQUEST)) from error
    for name in TrainRequest.model_fields:
        if name not in MAY_DIFFER and getattr(before, name) != getattr(request, name):
            raise BadInputError(
                f"was trained with {name} = {getattr(before, name)!r}, not {getattr(request, name)!r}",
                where=str(folder),
                mend="Give the options that the training was started with",
            )
