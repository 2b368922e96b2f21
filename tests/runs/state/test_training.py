"""The fold of a training's events."""

import pytest

from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFinished
from quail_audit.schema.events.training import TrainStep


def step(number: int, at_s: float) -> TrainStep:
    return TrainStep(at_s=at_s, step=number, total=11, epoch=0.1, loss=1.0, terms={"forget": 1.0}, learning_rate=1e-4)


def test_keeps_what_the_events_say() -> None:
    state = TrainingState()
    events = [step(1, 2.0), Noted(message="a note"), CheckpointSaved(step=1, folder="out", final=True)]
    for event in events:
        state.apply(event)
    assert [s.step for s in state.steps] == [1]
    assert state.notes == ["a note"]
    assert state.saved[-1].folder == "out"
    assert state.at_s == 2.0


def test_remaining_time_follows_the_pace_of_the_steps() -> None:
    state = TrainingState()
    state.apply(step(1, 10.0))
    assert state.remaining_s is None
    state.apply(step(5, 18.0))  # 2 s a step, 6 steps to go
    assert state.remaining_s == pytest.approx(12.0)
    state.apply(RunFinished(finished="2026-01-01T12:00:00+00:00", exit_code=0))
    assert state.remaining_s is None
