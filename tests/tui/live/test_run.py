"""Following a run: everything arrives once and in order, texts stay in the file, and reading ends when it should."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from quail_audit.core.errors import BadInputError
from quail_audit.runs.names import EVENTS
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import LayerMeasured, SampleScored
from quail_audit.schema.events.lines import to_line
from quail_audit.schema.policy import Limits, OtherLimits, Policy
from quail_audit.tui.live import feed as feed_module
from quail_audit.tui.live.feed import Feed
from quail_audit.tui.live.run import KnownSoFar, LiveRun
from quail_audit.verdict.evidence import weigh
from tests.support.made_runs import METRICS, detail, events, judged_by, write_run

PATIENCE_S = 20.0


def followed(folder: Path) -> LiveRun:
    run = LiveRun(folder)
    deadline_s = time.monotonic() + PATIENCE_S
    while not run.is_over:
        run.advance(0.01)
        assert time.monotonic() < deadline_s
    return run


def test_the_state_is_the_fold_of_all_events(tmp_path: Path) -> None:
    run = followed(write_run(tmp_path / "run", events(schemes=("nf4", "fp4"))))
    expected = AuditState()
    for event in events(schemes=("nf4", "fp4")):
        expected.apply(event)
    assert run.state.report() == expected.report()
    assert run.changes == len(list(events(schemes=("nf4", "fp4"))))
    assert run.schemes == ("nf4", "fp4")
    assert run.problem is None


def test_details_of_layers_are_read_from_the_file(tmp_path: Path) -> None:
    run = followed(write_run(tmp_path / "run"))
    for layer in run.layers("nf4"):
        assert run.detail("nf4", layer.name) == detail(layer)
        assert run.layer("nf4", layer.name) == layer
    assert run.detail("nf4", "no such layer") is None
    assert run.layer("fp4", "model.layers.0.mlp.up_proj") is None


def test_a_run_whose_layers_have_no_details_has_none(tmp_path: Path) -> None:
    made = [
        event.model_copy(update={"detail": None}) if isinstance(event, LayerMeasured) else event for event in events()
    ]
    run = followed(write_run(tmp_path / "run", iter(made)))
    assert run.detail("nf4", run.layers("nf4")[0].name) is None


def test_samples_are_found_with_their_texts(tmp_path: Path) -> None:
    run = followed(write_run(tmp_path / "run"))
    made = [event for event in events() if isinstance(event, SampleScored) and event.metric == "knowmem_forget"]
    answers = run.answers("knowmem_forget", "nf4")
    assert [one.number for one in answers] == list(range(24))
    for one in answers:
        expected = {event.arm: event for event in made if event.sample == one.number}
        assert one.scores == {arm: event.score for arm, event in expected.items()}
        assert run.texts(one) == expected
    assert set(run.metrics()) == set(METRICS)
    assert run.metrics()[0] == "verbmem_forget"
    assert run.answers("no such metric", "nf4") == []


def test_a_file_that_changed_under_an_open_run_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    run = followed(folder)
    answers = run.answers("knowmem_forget", "nf4")[0]
    (folder / EVENTS).write_text(to_line(next(events())) * 500)
    with pytest.raises(BadInputError):
        run.texts(answers)


@pytest.mark.parametrize("retrain", [True, False])
def test_what_is_known_so_far_is_what_the_audit_makes_of_the_items_so_far(tmp_path: Path, retrain: bool) -> None:
    """Against the audit's own figures, of the items that all arms have answered; they come in any order."""
    order = np.random.default_rng(5).permutation(24)
    made, late = [], []
    for event in events(retrain=retrain, outcome="pass"):
        if not isinstance(event, SampleScored) or event.metric != "verbmem_forget":
            continue
        if event.arm == "unlearned/nf4":
            late.append(event)
        elif event.arm in ("original/full", "unlearned/full", "retrain/full"):
            made.append(event)
    late = [late[place] for place in order[:9]]
    head = [event for event in events(retrain=retrain) if event.type in ("run_started", "planned")]
    run = followed(write_run(tmp_path / "run", iter([*head, *made, *late])))

    shared = sorted(event.sample for event in late)

    def scores(arm: str) -> tuple[float, ...]:
        by_number = {event.sample: event.score for event in [*made, *late] if event.arm == arm}
        return tuple(by_number[number] for number in shared)

    arms = ("original/full", "unlearned/full", "unlearned/nf4", *(("retrain/full",) if retrain else ()))
    report = run.state.report().model_copy(update={"items": {"verbmem_forget": {arm: scores(arm) for arm in arms}}})
    expected = weigh(report, Limits()).knowledge["nf4"]["verbmem_forget"]
    found = run.so_far("verbmem_forget", "nf4")
    assert found is not None
    assert expected.known is not None
    assert expected.back is not None
    assert found.percent == pytest.approx(expected.known.percent)
    assert (found.back, found.items) == (expected.back.count, 9)
    assert run.so_far("verbmem_forget", "fp4") is None
    assert run.so_far("nll_forget", "nf4") is None


def test_nothing_is_known_so_far_of_items_that_the_original_does_not_know(tmp_path: Path) -> None:
    made = [
        event.model_copy(update={"score": 20.0}) if isinstance(event, SampleScored) else event
        for event in events(samples=4)
        if event.type in ("run_started", "planned", "sample_scored")
    ]
    found = followed(write_run(tmp_path / "run", iter(made))).so_far("verbmem_forget", "nf4")
    assert found == KnownSoFar(percent=None, back=0, items=4)


def test_a_run_that_grows_is_followed_to_its_end(tmp_path: Path) -> None:
    from quail_audit.runs.folder import new_run

    made = list(events())
    request = made[0].request  # type: ignore[union-attr]
    with new_run(tmp_path / "run", request) as folder, (folder / EVENTS).open("w") as file:
        run = LiveRun(folder)
        for event in made[:50]:
            file.write(to_line(event) + "\n")
        file.write(to_line(made[50])[:40])
        file.flush()
        deadline_s = time.monotonic() + PATIENCE_S
        while run.changes < 50 and time.monotonic() < deadline_s:
            run.advance(0.01)
        time.sleep(0.3)
        run.advance(0.01)
        assert run.changes == 50
        assert not run.is_over
        file.write(to_line(made[50])[40:] + "\n")
        file.writelines(to_line(event) + "\n" for event in made[51:])
        file.flush()
        while not run.is_over and time.monotonic() < deadline_s:
            run.advance(0.01)
    assert run.changes == len(made)


def test_a_feed_waits_for_a_run_that_has_not_begun_and_no_longer_than_its_process(tmp_path: Path) -> None:
    alive = True
    feed = Feed(tmp_path / "run", is_awaited=lambda: alive)
    time.sleep(0.3)
    assert not feed.has_ended
    alive = False
    deadline_s = time.monotonic() + PATIENCE_S
    while not feed.has_ended and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert feed.has_ended
    assert feed.problem is not None
    assert "no run here" in str(feed.problem)


def test_what_waits_is_bounded_and_closing_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "EVENTS_WAITING", 100)
    before = threading.active_count()
    feed = Feed(write_run(tmp_path / "run", events(samples=200)))
    time.sleep(0.5)
    assert len(feed._waiting) == 100
    feed.close()
    deadline_s = time.monotonic() + PATIENCE_S
    while threading.active_count() > before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_taking_stops_when_its_time_is_over(tmp_path: Path) -> None:
    feed = Feed(write_run(tmp_path / "run", events(samples=200)))
    time.sleep(0.5)
    taken = 0
    for _ in feed.take(0.02):
        time.sleep(0.002)
        taken += 1
    assert 0 < taken <= 32
    feed.close()


def test_the_memory_of_a_run_does_not_hold_its_texts(tmp_path: Path) -> None:
    made = events(samples=50)
    run = followed(write_run(tmp_path / "run", made))
    held = json.dumps([list(samples.scores) for samples in run.samples.values()])
    assert "copper bracelets" not in held
    for samples in run.samples.values():
        assert {array.itemsize for array in (samples.scores, samples.numbers, samples.offsets)} == {8}


def test_a_process_that_is_leaving_after_the_end_is_nothing_to_stop(tmp_path: Path) -> None:
    class Living:
        exit_code = None

    run = LiveRun(write_run(tmp_path / "run"), child=Living())  # type: ignore[arg-type]
    assert run.is_running_here
    deadline_s = time.monotonic() + PATIENCE_S
    while run.state.end is None:
        run.advance(0.01)
        assert time.monotonic() < deadline_s
    assert not run.is_running_here


def test_the_limit_is_the_policys(tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text("[limits]\nmax_known_percent = 2.5\n")
    for policy, limit in (("strict.toml", 2.5), ("absent.toml", 10.0), (None, 10.0)):
        path = str(tmp_path / policy) if policy else None
        first, *others = events()
        request = first.request.model_copy(update={"policy": path})  # type: ignore[union-attr]
        made = iter([first.model_copy(update={"request": request}), *others])
        assert followed(write_run(tmp_path / f"run of {policy}", made)).limits == Limits(max_known_percent=limit)


def test_limits_of_the_command_line_count_before_the_policys(tmp_path: Path) -> None:
    """Also where the run has not said yet what it is judged by."""
    first, *others = events()
    given = {"policy": None, "limits": {"max_known_percent": 3.0}}
    request = first.request.model_copy(update=given)  # type: ignore[union-attr]
    run = followed(write_run(tmp_path / "run", iter([first.model_copy(update={"request": request}), *others])))
    assert run.limits == Limits(max_known_percent=3.0)


def test_the_limits_are_those_that_the_run_says(tmp_path: Path) -> None:
    limits = Limits(where=(OtherLimits(schemes=("nf4",), metrics=("knowmem_*",), max_known_percent=60.0),))
    run = followed(write_run(tmp_path / "run", judged_by(Policy(limits=limits), events(), "not here.toml")))
    assert run.limits == limits
