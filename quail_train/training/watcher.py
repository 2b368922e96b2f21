"""Watch a training after each step, and stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Watcher(TrainerCallback):
    """Looks at the training after each step, and stops it: saved, so that it can go on, unless it is over.

    Args:
        look: step -> whether to stop here as the aim is reached.
        stop_asked: whether somebody asked to stop.
    """

    def __init__(self, look: Callable[[int], bool], stop_asked: Callable[[], bool]) -> None:
        self._look = look
        self._stop_asked = stop_asked

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """After each step."""
        if "learning_rate" not in kwargs["logs"]:
            return control  # the summary at the end
        reached = self._look(state.global_step)
        if self._stop_asked() and not reached and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
        elif reached:
            control.should_training_stop = True
        return control
