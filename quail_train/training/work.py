"""What a training works with, and how it is stopped."""

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
    from quail_train.data.batches import Plan
    from quail_train.data.samples import TrainingData
    from quail_train.objectives.objective import Objective
    from quail_train.training.evaluation import Evaluation


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
