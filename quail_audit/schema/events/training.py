"""Define the events of a training."""

from typing import Literal

from quail_audit.core.values import Name
from quail_audit.schema.events.common import Started, Timed
from quail_audit.schema.figures import Share
from quail_audit.schema.requests import TrainRequest


class TrainingStarted(Started):
    """The first event of a training run, as RunStarted is of an audit."""

    type: Literal["training_started"] = "training_started"
    request: TrainRequest
    command: tuple[str, ...]  # that repeats it
    environment: dict[str, str]


class TrainingPlanned(Timed):
    """The layers that will be trained, and for how long."""

    type: Literal["training_planned"] = "training_planned"
    steps: int
    layers: tuple[str, ...]  # the trained ones; every other weight stays as it is
    weights: int  # in those layers
    forget_samples: int
    retain_samples: int
    margin_logits: float | None = None  # gamma, if the objective has a hinge
    quantization_steps: dict[str, float] = {}  # layer -> its measured step, in units of its weights


class TrainStep(Timed):
    type: Literal["train_step"] = "train_step"
    step: int  # from 1
    total: int
    epoch: float
    loss: float
    terms: dict[Name, float]  # "forget", "retain", "hinge", "l1": each as it goes into the loss, unweighted
    hinge_satisfied: Share | None = None  # of (token, vocabulary) places, or tokens: at or beyond the margin
    gradient_norm: float | None = None
    learning_rate: float


class TrainEval(Timed):
    """Scores of the model in training: metric -> precision ("full", "nf4") -> score."""

    type: Literal["train_eval"] = "train_eval"
    step: int
    scores: dict[Name, dict[Name, float]]
    source: Literal["training", "audit"] = (
        "training"  # audit: of the checkpoint as saved; step 0 is the one it began as
    )
