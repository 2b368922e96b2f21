"""Train with transformers' Trainer on forget + alpha * retain + lambda * hinge + mu * L1.

The Trainer brings accelerate, FSDP, DeepSpeed, gradient checkpointing, mixed precision and the loggers. Progress is
reported as events. The terms are in quail_train/objectives.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Trainer

from quail_audit.core.errors import EXIT_FAIL, QuailError
from quail_audit.core.writing import write_error
from quail_audit.schema.events.common import CheckpointSaved
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainStep
from quail_train.data.batches import logits_of
from quail_train.objectives.hinge import hinge
from quail_train.objectives.objective import Objective, TermName
from quail_train.objectives.terms import (
    Predictions,
    forward_kl,
    gradient_ascent,
    l1_of_update,
    nll,
    npo,
    over_shared_tokens,
    predictions,
    simnpo,
)
from quail_train.output.checkpoint import checkpoint_writable
from quail_train.training.original import Original
from quail_train.training.rounded_forward import RoundedForward, effective_weight

# In a checkpoint to resume from:
REQUEST = "quail-train.json"  # the request of its run
MASTER_WEIGHTS = "trained.safetensors"  # the trained weights, in the dtype of training


class DivergedError(QuailError):
    """A loss or a gradient is NaN or infinite (exit 1: the training failed)."""

    kind = "diverged"
    exit_code = EXIT_FAIL


@dataclass(frozen=True, eq=False)
class TrainedLayers:
    """The layers that are trained.

    Attributes:
        modules: layer -> its module in the model.
        originals: layer -> the original's weight as stored; empty without an L1 term.
    """

    modules: Mapping[str, nn.Module]
    originals: Mapping[str, torch.Tensor]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return layer -> its weight as stored, with gradients."""
        return {name: effective_weight(module) for name, module in self.modules.items()}


class UnlearningTrainer(Trainer):
    """A Trainer whose loss is an objective.

    Args:
        objective: what is minimized.
        layers: the layers whose weights change.
        original: the frozen original; None if the objective does not need it.
        rounding: switches the model to rounded weights; None if nothing needs them.
        emit: takes the events.
        write: writes the model into a folder, given the trained weights (layer -> weight as stored); returns how many
            of them are as before.
        request: the run's request as JSON, for a training that resumes from a checkpoint.
        samples_an_epoch: forget samples, to tell the epoch from the step.
        others: arguments of Trainer.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        layers: TrainedLayers,
        original: Original | None,
        rounding: RoundedForward | None,
        emit: Callable[[Event], None],
        write: Callable[[Path, Mapping[str, torch.Tensor]], int],
        request: str,
        samples_an_epoch: int,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.objective: Objective = objective
        self.layers = layers
        self.original = original
        self.rounding = rounding
        self.emit = emit
        self.write = write
        self.request = request
        self.samples_an_epoch = samples_an_epoch
        self.loss_is_scaled_for_ga = False  # gradient accumulation: a step's loss is the mean of its batches' losses
        self.terms: dict[str, float] = {}
        self.hinge_satisfied: float | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        planned: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(planned)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the objective of one batch of collate(): forget samples, then as many retain samples or none."""
        objective = self.objective
        labels = inputs["labels"]
        rows = labels.shape[0]
        forget_rows = self.args.per_device_train_batch_size
        asks_forget, asks_retain = objective.needs_original_on
        quantized = objective.hinge_is_rounded

        def forward(*, forget: bool) -> tuple[Predictions, Predictions]:
            """Return the predictions on the forget samples, none of them if not forget, and on the retain samples."""
            first, last = 0 if forget else forget_rows, rows if objective.retain else forget_rows
            logits = logits_of(model, inputs, slice(first, last))
            middle = forget_rows - first
            return (
                predictions(logits[:middle], labels[first:forget_rows]),
                predictions(logits[middle:], labels[forget_rows:last]),
            )

        found: dict[str, Predictions] = {}
        needs_forget = objective.forget is not None or not quantized
        if needs_forget or objective.retain:
            found["forget"], found["retain"] = forward(forget=needs_forget)
        if quantized:
            assert self.rounding is not None  # noqa: S101 - assembly.py made it
            with self.rounding.rounded():
                found["hinged"], found["retain, rounded"] = forward(forget=True)
        elif objective.hinge:
            found["hinged"] = found["forget"]

        compared: dict[str, Predictions] = {}
        if asks_forget or asks_retain:
            assert self.original is not None  # noqa: S101 - assembly.py made it
            asked = slice(0 if asks_forget else forget_rows, rows if asks_retain else forget_rows)
            reference = self.original(inputs, asked)
            if asks_forget:
                compared["forget"] = predictions(reference[:forget_rows], labels[:forget_rows])
            if asks_retain:
                compared["retain"] = predictions(reference[-(rows - forget_rows) :], labels[forget_rows:])

        if objective.forget == "relabel":
            found["forget"] = replace(found["forget"], targets=inputs["other_labels"][:forget_rows])
        terms = self._terms(found, compared)
        weights: dict[TermName, float] = {
            "forget": 1.0,
            "retain": objective.retain_weight,
            "hinge": objective.hinge_weight,
            "l1": objective.l1_weight,
        }
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def _terms(
        self, found: Mapping[str, Predictions], compared: Mapping[str, Predictions]
    ) -> dict[TermName, torch.Tensor]:
        """Return this process's terms. Their mean over all processes is the term over the whole batch."""
        objective = self.objective
        values: dict[TermName, torch.Tensor] = {}
        match objective.forget:
            case "ga":
                values["forget"] = gradient_ascent(found["forget"], objective.forget_loss_cap)
            case "npo":
                values["forget"] = npo(*over_shared_tokens(found["forget"], compared["forget"]))
            case "simnpo":
                values["forget"] = simnpo(found["forget"])
            case "relabel":
                values["forget"] = nll(found["forget"])
        if objective.retain is not None:
            # If the hinge looks at the rounded model, so does the retain term: the rounded model may forget more.
            kept = [found[name] for name in ("retain", "retain, rounded") if name in found]
            if objective.retain == "gdr":
                values["retain"] = torch.cat([nll(one) for one in kept])
            else:
                values["retain"] = torch.cat([forward_kl(*over_shared_tokens(one, compared["retain"])) for one in kept])
        satisfied = None
        if objective.hinge is not None:
            both = over_shared_tokens(found["hinged"], compared["forget"])
            hinged = hinge(objective.hinge, *both, objective.margin)
            values["hinge"] = hinged.values
            satisfied = self._mean(hinged.satisfied)
        terms = {name: self._mean(value) for name, value in values.items()}
        if objective.l1_weight > 0 and self.layers.originals:
            terms["l1"] = l1_of_update(self.layers.weights(), self.layers.originals)
        self._keep_terms(terms, satisfied)
        return terms

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return this process's share of the mean over all processes; the mean of the shares is that mean."""
        count = torch.tensor(float(values.numel()), device=values.device)
        if self.args.world_size > 1:
            count = self._sum_over_processes(count) / self.args.world_size
        return values.sum() / count.clamp(min=1.0)

    def _sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = self.accelerator.reduce(value.detach().clone(), reduction="sum")
        return summed

    def any_process(self, asked: bool) -> bool:
        """Return True in all processes if it is asked in any."""
        if self.args.world_size == 1:
            return asked
        return float(self._sum_over_processes(torch.tensor(float(asked), device=self.args.device))) > 0

    def _keep_terms(self, terms: Mapping[TermName, torch.Tensor], satisfied: torch.Tensor | None) -> None:
        """Keep the terms for the step's event.

        Raises:
            DivergedError: a term is NaN or infinite: says which.
        """
        names = list(terms)
        both = torch.stack(
            [term.detach().float() for term in terms.values()] + ([] if satisfied is None else [satisfied])
        )
        if self.args.world_size > 1:
            both = self._sum_over_processes(both) / self.args.world_size
        found = both.tolist()
        self.terms = dict(zip(names, found, strict=False))
        self.hinge_satisfied = None if satisfied is None else min(1.0, found[-1])
        for name in names:
            self._check_finite(self.terms[name], f"the {name} term")

    def _check_finite(self, value: float, what: str) -> None:
        if not torch.isfinite(torch.tensor(value)):
            raise DivergedError(
                f"{what} became {value} in step {self.state.global_step + 1}",
                mend="Lower --learning-rate, bound the ascent with --forget-loss-cap, or use a hinge_ or npo objective",
            )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None:
            self._check_finite(float(norm), "the gradient")
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Emit a step's event, then log as Trainer does: events that the log causes come after it."""
        if "learning_rate" in logs:
            step = self.state.global_step
            self.emit(
                TrainStep(
                    step=step,
                    total=self.state.max_steps,
                    epoch=round(step * self.samples_a_step / self.samples_an_epoch, 4),
                    loss=logs["loss"],
                    terms=self.terms,
                    hinge_satisfied=self.hinge_satisfied,
                    gradient_norm=logs.get("grad_norm"),
                    learning_rate=logs["learning_rate"],
                )
            )
            logs = {**logs, **self.terms}
        super().log(logs, start_time)

    @property
    def samples_a_step(self) -> int:
        """Forget samples of a step, over all processes."""
        arguments: Any = self.args
        return int(arguments.per_device_train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps)

    @property
    def is_sharded(self) -> bool:
        """True if no process holds a whole weight."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def write_result(self, folder: Path) -> int | None:
        """Write the trained model; all processes take part, one writes.

        Returns:
            The number of trained weights that are as before; None in the processes that do not write.
        """
        state = self.accelerator.get_state_dict(self.model_wrapped) if self.is_sharded else None
        return self.write(folder, self._whole_weights(state)) if self.args.should_save else None

    def _whole_weights(self, state: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """Return layer -> its weight as stored; taken from the gathered state if the weights are sharded."""
        if state is not None:
            return {layer: state[f"{layer}.weight"] for layer in self.layers.modules}
        with torch.no_grad():
            return self.layers.weights()

    def save_to_resume(self) -> Path | None:
        """Write a checkpoint that loads as a model and that training can resume from.

        Returns:
            Its folder; None if no step was made, or if the weights are NaN or infinite.
        """
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self._trained_parameters().values())
        if self.state.global_step == 0 or not finite:
            return None
        self._save_checkpoint(self.model, None)
        return self.checkpoint_folder()

    def checkpoint_folder(self) -> Path:
        """Return the folder for a checkpoint of this step."""
        return Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as Trainer does; remove a folder that could not be written whole.

        Raises:
            EnvironmentProblemError: the disk is full, or the folder cannot be written.
        """
        folder = self.checkpoint_folder()
        try:
            super()._save_checkpoint(model, trial)
        except (QuailError, OSError, RuntimeError) as error:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise write_error(folder, error) from error
            if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch.save hides the cause
                raise write_error(folder, OSError(errno.ENOSPC, str(error))) from error
            raise
        self.emit(CheckpointSaved(step=self.state.global_step, folder=str(folder)))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write a checkpoint as the result is written, the trained weights in full precision, and the request."""
        from safetensors.torch import save_file

        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        self.write(folder, self._whole_weights(state_dict))
        if state_dict is not None:
            return  # FSDP and DeepSpeed save what they need to resume
        trained = {name: p.detach().cpu().contiguous() for name, p in self._trained_parameters().items()}
        with checkpoint_writable(folder):
            save_file(trained, folder / MASTER_WEIGHTS, metadata={"format": "pt"})
            (folder / REQUEST).write_text(self.request, encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        saved = load_file(Path(resume_from_checkpoint) / MASTER_WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._trained_parameters().items():
                parameter.copy_(saved[name])

    def _trained_parameters(self) -> dict[str, nn.Parameter]:
        model: Any = self.model
        return {name: p for name, p in model.named_parameters() if p.requires_grad}
