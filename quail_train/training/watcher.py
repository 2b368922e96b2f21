"""Stop a training after a step, if its target is reached or somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Watcher(TrainerCallback):
    """Stops the training after a step; saves a checkpoint to resume from, unless the training is over.

    Args:
        evaluate: takes a step; returns True if the target is reached.
        is_stop_asked: returns True if somebody asked to stop.
    """

    def __init__(self, evaluate: Callable[[int], bool], is_stop_asked: Callable[[], bool]) -> None:
        self._evaluate = evaluate
        self._is_stop_asked = is_stop_asked

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Evaluate after each step, and stop if it is time."""
        if "learning_rate" not in kwargs["logs"]:
            return control  # the summary at the end
        reached = self._evaluate(state.global_step)
        if self._is_stop_asked() and not reached and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
        elif reached:
            control.should_training_stop = True
        return control
