import io

import pytest
from rich.console import Console

from quail_audit.cli.progress.audit import view
from quail_audit.cli.progress.live import LiveView
from quail_audit.cli.progress.plain import PlainProgress
from quail_audit.runs.state.audit import AuditState, RunningMean
from quail_audit.schema.events.audit import FilesAwaited, FilesHashed, MetricScored, SampleScored, UtilityMeasured
from quail_audit.schema.events.common import RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import Estimate, Kept, Score
from tests.support import made_runs
from tests.support.small_run import events


def state_after(*run: Event) -> AuditState:
    state = AuditState()
    for event in run:
        state.apply(event)
    return state


def drawn(state: AuditState, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(view(state))
    return stream.getvalue()


def until(kind: str, nth: int = 1) -> list[Event]:
    """The events up to and with the nth of a kind."""
    taken: list[Event] = []
    for event in events():
        taken.append(event)
        nth -= event.type == kind
        if not nth:
            break
    return taken


def test_plain_lines_tell_the_story() -> None:
    stream = io.StringIO()
    state = AuditState()
    utility = Estimate(percent=91.2, low=80.4, high=99.8, items=48)
    kept = UtilityMeasured(scheme="nf4", metric="knowmem_retain", kept=Kept(utility=utility))
    *measured, verdict, end = events()
    with PlainProgress(stream) as face:
        for event in (*measured, kept, verdict, end):
            state.apply(event)
            face.update(event, state)
    text = stream.getvalue()
    for said in (
        "2 layers, 128 weights",
        "verbmem_forget 1",
        "1 layers at risk",
        "unlearned/nf4: dequantized",
        "nf4: VerbMem, forget: comes back, 1 of 1 back, 98 % [80, 104] known",
        "nf4: KnowMem, retain: utility kept 91 % [80, 100], n = 48",
        "verdict: fail",
    ):
        assert said in text
    assert text.startswith("[0:00:00] run 20260101-120000-ab12")


def test_plain_lines_are_not_flooded_by_samples() -> None:
    stream = io.StringIO()
    face = PlainProgress(stream)
    for event in events():
        if isinstance(event, SampleScored):
            for second in range(60):
                face.update(event.model_copy(update={"at_s": second / 10}), AuditState())
            break
    assert stream.getvalue().count("\n") == 1


def test_a_sample_says_which_way_brought_it_out() -> None:
    *before, sample = until("sample_scored")
    assert isinstance(sample, SampleScored)
    assert "20.0  (longer prompt) …Dr Adu said →" in drawn(
        state_after(*before, sample.model_copy(update={"score": 20.0, "way": "longer prompt"}))
    )
    assert "(" not in drawn(state_after(*before, sample)).splitlines()[-1]


def test_of_many_metrics_those_that_decide_are_in_view() -> None:
    score = Score(mean=1.0, low=0.0, high=2.0, samples=4)
    names = (*(f"z{number}" for number in range(9)), "privleak", "verbmem_retain", "verbmem_probability_forget")
    scored = [MetricScored(arm="original/full", metric=name, score=score) for name in names]
    lines = drawn(state_after(*until("arm_started"), *scored), width=80).splitlines()
    titles = [line.split("  ")[0].strip() for line in lines[lines.index(next(x for x in lines if "VerbMem" in x)) :]]
    assert titles[:4] == ["VerbMem, prob.", "VerbMem, retain", "Min-40% AUC", "z0"]
    assert titles[10] == "… and 2 more metrics"


def test_nothing_known_is_a_dash_and_never_a_zero() -> None:
    text = drawn(state_after(*until("arm_started")))
    assert "original/full" in text
    assert "unlearned/nf4" in text
    assert "—" in text
    assert " 0.0" not in text


def test_running_scores_are_marked_and_then_settle() -> None:
    assert "~95.0" in drawn(state_after(*until("sample_scored")))
    text = drawn(state_after(*until("metric_scored")))
    assert "95.0" in text
    assert "~95.0" not in text


def test_states_are_counted_in_words() -> None:
    assert "1 erased" in drawn(state_after(*until("layer_measured", 2)))


def test_hostile_answers_do_not_act() -> None:
    hostile = [
        e.model_copy(update={"answer": "[red]x\x1b[2J"}) if isinstance(e, SampleScored) else e
        for e in until("sample_scored")
    ]
    text = drawn(state_after(*hostile))
    assert "\x1b" not in text
    assert "[red]x" in text


def test_remaining_time_comes_from_finished_arms() -> None:
    assert state_after(*until("arm_started")).remaining_s is None
    assert state_after(*until("arm_finished")).remaining_s == 4 * 2.0
    assert state_after(*until("arm_started", 3)).remaining_s == 3 * 2.0
    assert state_after(*events()).remaining_s is None


def test_a_plug_in_metric_is_shown_by_its_own_name() -> None:
    run = [e.model_copy(update={"metric": "zebra"}) if isinstance(e, MetricScored) else e for e in events()]
    assert "zebra" in drawn(state_after(*run))


def test_the_live_view_leaves_the_screen_clean() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, height=24)
    state = AuditState()
    with LiveView(console) as face:
        for event in events():
            state.apply(event)
            face.update(event, state)
    assert isinstance(state.end, RunFinished)
    assert stream.getvalue().endswith("\x1b[2K"), "the last thing done is to erase the view's lines"


def test_running_scores_have_the_mean_and_interval_that_numpy_finds() -> None:
    import numpy as np

    scores = [1e6 + 1.0, 1e6 + 4.0, 1e6 + 2.5, 1e6]
    progress = RunningMean()
    progress.add(scores[0])
    assert progress.half_width is None
    for score in scores[1:]:
        progress.add(score)
    assert progress.mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert progress.half_width == pytest.approx(1.96 * np.std(scores, ddof=1) / 2, rel=1e-9)


@pytest.mark.parametrize("kind", ["planned", "layer_measured", "sample_scored", "knowledge_measured"])
def test_fourteen_schemes_fit_a_screen_of_twenty_four_lines(kind: str) -> None:
    """The scheme at work is shown, and of the others how many are done."""
    made = list(made_runs.events(blocks=2, schemes=made_runs.FORMATS, samples=2))
    last = max(place for place, event in enumerate(made) if event.type == kind)
    text = drawn(state_after(*made[: last + 1]), width=100)
    assert len(text.splitlines()) < 24
    if kind == "sample_scored":
        assert "30 / 31" in text
        assert "unlearned/mxfp4" in text
        assert "unlearned/nf4" not in text
        assert "mxfp4: " in text
    if kind == "planned":
        assert "0 / 31" in text


def test_files_that_are_still_hashed_when_all_is_measured_are_said() -> None:
    measured = [event for event in events() if event.type not in ("verdict_reached", "run_finished")]
    steps = [FilesAwaited(at_s=60.0 + at, done_bytes=10**9 * (2 + at), total_bytes=10**10) for at in range(3)]
    state = state_after(*measured, steps[0])
    assert state.remaining_s is None, "one figure is no pace"
    state = state_after(*measured, *steps)
    text = drawn(state)
    assert "hashing the files that were read: 4 GB of 10 GB" in text
    assert "~0:00:06 left" in text, "6 GB at 1 GB a second"
    stream = io.StringIO()
    PlainProgress(stream).update(steps[-1], state)
    assert "hashing the files that were read: 4 GB of 10 GB" in stream.getvalue()
    assert "hashing" not in drawn(state_after(*measured, *steps, FilesHashed(files=())))
