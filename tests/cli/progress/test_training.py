"""A training as it is seen: live, as lines, and at its end."""

import io

from rich.console import Console

from quail_audit.cli.progress.plain import PlainProgress
from quail_audit.cli.progress.training import curve, view
from quail_audit.reports.text import training
from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFailed, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainingPlanned, TrainingStarted, TrainStep
from quail_audit.schema.requests import TrainRequest

REQUEST = TrainRequest(
    original="original", unlearned="unlearned", data="data", out="out\x1b[31m", objective="hinge_gdr"
)


def step(number: int, at_s: float) -> TrainStep:
    return TrainStep(
        at_s=at_s, step=number, total=4, epoch=number / 2, loss=5.0 / number, learning_rate=1e-3,
        terms={"hinge": 4.0 / number, "retain": 0.25}, hinge_satisfied=number / 4, gradient_norm=1.0,
    )  # fmt: skip


EVENTS: list[Event] = [
    TrainingStarted(
        quail_version="0.1.0", run_id="a-run", started="2026-01-01T12:00:00+00:00", request=REQUEST,
        command=("quail", "train"), environment={},
    ),
    Noted(message="a note"),
    TrainingPlanned(
        steps=4, layers=("a", "b"), weights=2000, forget_samples=3, retain_samples=5, margin_logits=2.0
    ),
    *(step(number, 10.0 * number) for number in (1, 2, 3, 4)),
    CheckpointSaved(step=4, folder="out", final=True),
    TrainEval(step=0, scores={"verbmem_forget": {"full": 14.6, "nf4": 99.9}}, source="audit"),
    TrainEval(
        step=4, scores={"verbmem_forget": {"full": 0.7, "nf4": 1.2}, "nll_forget": {"full": 3.456}}, source="audit"
    ),
    RunFinished(finished="2026-01-01T12:01:00+00:00", exit_code=0),
]  # fmt: skip


def state_after(*events: Event) -> TrainingState:
    state = TrainingState()
    for event in events:
        state.apply(event)
    return state


def printed(shown: object) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(shown)
    return stream.getvalue()


def test_the_live_view() -> None:
    assert "waiting" in printed(view(TrainingState()))
    text = printed(view(state_after(*EVENTS[:6])))
    for said in (
        "hinge_gdr",
        "2 layers",
        "3 / 4, epoch 1.5",
        "hinge",
        "1.333",
        "margin reached",
        "75.0 %",
        "~0:00:10 left",
    ):
        assert said in text
    assert "\x1b" not in text
    assert "auditing it" in printed(view(state_after(*EVENTS[:8])))
    assert "99.9 → 1.2" in printed(view(state_after(*EVENTS)))


def test_a_curve_goes_from_the_lowest_to_the_highest() -> None:
    assert curve([3.0, 2.0, 1.0]) == "█▅▁" or curve([3.0, 2.0, 1.0]) == "█▄▁"
    assert curve([1.0, 1.0]) == "▁▁"
    assert curve([]) == ""
    assert len(curve([float(i) for i in range(1000)], columns=40)) == 40


def test_plain_lines() -> None:
    stream, state = io.StringIO(), TrainingState()
    with PlainProgress(stream) as face:
        for event in EVENTS:
            state.apply(event)
            face.update(event, state)
    text = stream.getvalue()
    for said in (
        "run a-run",
        "4 steps on 2 layers, 2 k weights, margin 2 logits",
        "step 2 of 4: loss 2.5",
        "saved out",
    ):
        assert said in text
    assert "after step 4: VerbMem, forget full 0.7, nf4 1.2; NLL, forget full 3.46" in text


def test_the_report() -> None:
    stream = io.StringIO()
    training.show(state_after(*EVENTS).report(), Console(file=stream, width=100))
    text = stream.getvalue()
    for said in (
        "2 layers, 2 k weights trained",
        "4 of 4 steps; loss 5 → 1.25",
        "14.6 → 0.7",
        "99.9 → 1.2",
        "— → 3.46",
    ):
        assert said in text
    assert "\x1b" not in text


def test_the_report_of_a_training_that_failed() -> None:
    failed = RunFailed(finished="2026-01-01T12:01:00+00:00", kind="diverged", message="the forget term became nan",
                       mend="Lower it", exit_code=1)  # fmt: skip
    report = state_after(*EVENTS[:5], failed).report()
    stream = io.StringIO()
    training.show(report, Console(file=stream, width=100))
    assert "stopped (diverged): the forget term became nan" in stream.getvalue()
    assert report.exit_code == 1
    assert report.last_step is not None
    assert report.last_step.step == 2
