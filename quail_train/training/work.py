"""Hold what a training works with, and how it is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.schema.requests import TrainRequest
from quail_train.objectives.presets import Preset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.schema.events.training import TrainingPlanned
    from quail_train.data.batches import BatchPlan
    from quail_train.data.samples import TrainingData
    from quail_train.objectives.objective import Objective
    from quail_train.training.evaluation import Evaluation


@dataclass
class Stop:
    """A request to stop a training.

    Attributes:
        asked: stop after the current step, with a checkpoint to resume from.
        in_steps: the training is making steps; if not, it can be interrupted at once.
    """

    asked: bool = False
    in_steps: bool = False


@dataclass(frozen=True, eq=False)
class Work:
    """Everything opened and decided before the first step."""

    request: TrainRequest
    preset: Preset
    objective: Objective
    scheme: Scheme
    pair: Pair
    source: Checkpoint
    layers: tuple[Layer, ...]
    tokenizer: PreTrainedTokenizerBase
    data: TrainingData
    batches: BatchPlan
    planned: TrainingPlanned
    evaluation: Evaluation | None
    folder: Path
