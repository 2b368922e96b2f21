"""An audit that was stopped goes on: at whatever moment, to the report it would have had, measuring nothing twice."""

import importlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from quail_audit.cli.audit import resume_audit
from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.checkpoints.checkpoint import Checkpoint
from quail_audit.engine.checkpoints.pair import Pair
from quail_audit.engine.forgetting.models import batches
from quail_audit.runs.folder import hold_stopped_run, new_run, read_report, read_request
from quail_audit.runs.going_on import may_go_on
from quail_audit.runs.journal import open_journal
from quail_audit.runs.names import EVENTS, JOURNAL, REPORT
from quail_audit.runs.record import record
from quail_audit.runs.resume import RecordedEvents
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.events.lines import Event, from_line, to_line
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from tests.support.calibrated_audits import SCHEME, stand_in, texts
from tests.support.quail_command import QUAIL, quail
from tests.support.small_run import events as made_up_events
from tests.support.tiny_audits import let_scheme_fail, lines_of, report_in, request, start_audit

__all__ = ["stand_in", "texts"]  # fixtures
EVALUATE_ARM = "quail_audit.engine.forgetting.evaluate.evaluate_arm"


def begin(asked: AuditRequest, folder: Path) -> Iterator[Event]:
    """A run as `quail audit` makes it."""
    with (
        new_run(folder, asked),
        open_journal(folder / JOURNAL) as journal,
        closing(record(audit(asked, "run", journal=journal), folder)) as events,
    ):
        yield from events


@pytest.fixture(scope="session")
def asked(world: Path) -> AuditRequest:
    return request(world, schemes=("nf4", "fp4-dq"), max_samples=3, batch_size=2)


class Finished:
    """A whole audit, and how long its files were after each event."""

    def __init__(self, asked: AuditRequest, folder: Path) -> None:
        self.folder = folder
        self.sizes: list[tuple[int, int]] = []
        for _ in begin(asked, folder):
            self.sizes.append(((folder / EVENTS).stat().st_size, (folder / JOURNAL).stat().st_size))

    def killed(self, after: int, folder: Path, cut: int = 0) -> Path:
        """The folder as it was after so many events, and some bytes of the next line."""
        shutil.copytree(self.folder, folder)
        (folder / REPORT).unlink()
        sizes = self.sizes[after - 1] if after else (0, 0)
        for name, size in zip((EVENTS, JOURNAL), sizes, strict=True):
            with (folder / name).open("r+b") as file:
                file.truncate(size + cut)
        return folder


@pytest.fixture(scope="session")
def finished(asked: AuditRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(asked, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is done of that which takes long."""
    done: Counter[str] = Counter()

    def counted(owner: Any, name: str, what: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            done[what] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, wrapped)

    counted(Pair, "read", "layers")
    counted(batches, "_run_unless_out_of_memory", "batches")
    counted(Checkpoint, "read", "matrices")
    return done


def goes_on(finished: Finished, folder: Path) -> None:
    """See that a folder's run goes on to what the finished one came to."""
    resume_audit(folder, output=folder / "result.txt", quiet=True)
    assert lines_of(folder) == lines_of(finished.folder)
    assert report_in(folder) == report_in(finished.folder)
    assert (folder / JOURNAL).exists() == may_go_on(read_report(folder)), "of no use to a run that is decided"


def moments(finished: Finished, count: int) -> list[int]:
    return random.Random(0).sample(range(len(finished.sizes)), count)


def test_a_killed_audit_goes_on_wherever_it_was(finished: Finished, tmp_path: Path) -> None:
    for after in (0, *moments(finished, 2), len(finished.sizes) - 1):
        goes_on(finished, finished.killed(after, tmp_path / f"{after}", cut=after % 3 * 7))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_audit_goes_on_from_every_event(finished: Finished, tmp_path: Path) -> None:
    for after in range(len(finished.sizes)):
        goes_on(finished, finished.killed(after, tmp_path / f"{after}"))


def test_what_was_measured_is_not_measured_again(finished: Finished, tmp_path: Path, work: Counter[str]) -> None:
    events = [from_line(line) for line in (finished.folder / EVENTS).read_text().splitlines()]
    names = [event.type for event in events]
    goes_on(finished, finished.killed(0, tmp_path / "all"))
    whole = Counter(work)
    assert whole["layers"] == 14

    work.clear()  # stopped at the fifth layer, of which one scheme was done
    goes_on(finished, finished.killed(names.index("layer_measured") + 9, tmp_path / "layers"))
    assert (work["layers"], work["batches"]) == (10, whole["batches"])

    work.clear()  # stopped in the middle of the second arm
    second = [index for index, event in enumerate(events) if isinstance(event, SampleScored)]
    second = [index for index in second if events[index].arm == "unlearned/full"]  # type: ignore[union-attr]
    goes_on(finished, finished.killed(second[len(second) // 2], tmp_path / "arm"))
    assert work["layers"] == 0
    assert whole["batches"] / 2 < work["batches"] < whole["batches"] * 5 / 6

    work.clear()  # stopped as the evidence is weighed: the last arm is kept, as the event after its end was made
    goes_on(finished, finished.killed(names.index("knowledge_measured") + 1, tmp_path / "end"))
    assert not work


def test_an_audit_that_was_interrupted_goes_on(asked: AuditRequest, finished: Finished, tmp_path: Path) -> None:
    with closing(begin(asked, tmp_path / "run")) as events:
        list(islice(events, 40))
    assert read_report(tmp_path / "run").failure is not None
    with closing(_resumed(tmp_path / "run")) as events:  # and is interrupted while it catches up
        list(islice(events, 3))
    assert report_in(tmp_path / "run")["schemes"]["nf4"]["layers"]
    goes_on(finished, tmp_path / "run")


def _resumed(folder: Path) -> Iterator[Event]:
    with hold_stopped_run(folder) as stopped, open_journal(folder / JOURNAL) as journal:
        assert stopped.started is not None
        said = audit(stopped.request, "run", started=stopped.started.started, journal=journal)
        with closing(record(said, folder, stopped.recorded)) as events:
            yield from events


def test_a_backends_checkpoints_are_made_again_only_where_they_are_needed(
    stand_in: None, world: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Finished(request(world, schemes=(SCHEME,), calibration=str(texts), max_samples=1), tmp_path / "whole")
    names = [line["type"] for line in lines_of(whole.folder)]
    arms = [index for index, name in enumerate(names) if name == "arm_started"]
    for after in (names.index("layer_measured") + 2, arms[3] + 1):
        goes_on(whole, whole.killed(after, tmp_path / f"{after}"))
    monkeypatch.setattr("quail_audit.engine.audit.calibrated._quantize", None)
    goes_on(whole, whole.killed(names.index("knowledge_measured") + 1, tmp_path / "done"))


def _spoil(monkeypatch: pytest.MonkeyPatch, target: str, spoilt: Callable[..., bool], *, after: int = 0) -> None:
    """Let a generator fail once it has said so many events, as a scheme's library may."""
    module, name = target.rsplit(".", 1)
    real = getattr(importlib.import_module(module), name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        events = real(*arguments, **named)
        if spoilt(*arguments):
            yield from islice(events, after)
            raise RuntimeError("a singular Hessian")
        return (yield from events)

    monkeypatch.setattr(target, wrapped)


def test_a_scheme_that_failed_stays_failed_though_it_would_not_fail_again(
    stand_in: None, world: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(world, schemes=("fp4", "nf4", "int8", SCHEME), calibration=str(texts), max_samples=2, batch_size=1)
    with monkeypatch.context() as patches:
        let_scheme_fail("fp4", "quail_audit.engine.weights.pair", "sums_over_table", patches)
        _spoil(patches, "quail_audit.engine.audit.calibrated.measure_each_layer", lambda *_: True, after=5)
        _spoil(patches, EVALUATE_ARM, lambda arm, *_: arm == "original/nf4", after=5)
        whole = Finished(asked, tmp_path / "whole")
    names = [line["type"] for line in lines_of(whole.folder)]
    failures = [index for index, name in enumerate(names) if name == "scheme_failed"]
    assert len(failures) == 3
    for after in (failures[2] + 1, len(names) - 1):
        goes_on(whole, whole.killed(after, tmp_path / f"{after}"))


def test_a_run_that_ended_as_its_last_scheme_failed_tries_that_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(world, schemes=("nf4",), max_samples=2, batch_size=1)
    with monkeypatch.context() as patches, pytest.raises(RuntimeError, match="singular"):
        _spoil(patches, EVALUATE_ARM, lambda arm, *_: arm == "unlearned/nf4", after=3)
        list(begin(asked, tmp_path / "run"))
    assert [line["type"] for line in lines_of(tmp_path / "run")[-2:]] == ["scheme_failed", "run_failed"]
    goes_on(Finished(asked, tmp_path / "whole"), tmp_path / "run")


def test_of_a_finished_audit_the_result_is_shown_again(finished: Finished, tmp_path: Path, work: Counter[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    code = resume_audit(folder, format="json", output=tmp_path / "result.json")
    assert code == read_report(finished.folder).exit_code
    assert Report.model_validate_json((tmp_path / "result.json").read_text()) == read_report(finished.folder)
    assert (folder / EVENTS).read_bytes() == (finished.folder / EVENTS).read_bytes()
    assert not work


def test_what_changed_since_is_refused_and_nothing_is_lost(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("original", "blank", "data"):
        shutil.copytree(world / name, tmp_path / name)
    own = request(tmp_path, schemes=("nf4",), max_samples=3)
    with closing(begin(own, tmp_path / "run")) as events:
        list(islice(events, 40))
    before = lines_of(tmp_path / "run")[:-1]
    shutil.copytree(tmp_path / "data", tmp_path / "kept")
    texts = tmp_path / "data" / "verbmem" / "forget.json"
    texts.write_text(texts.read_text().replace(" ", "  ", 1))
    with pytest.raises(
        BadInputError, match=r"go on as it began: verbmem/forget\.json of the data was written to since"
    ):
        resume_audit(tmp_path / "run", quiet=True)
    assert "to go on" not in capsys.readouterr().err
    assert lines_of(tmp_path / "run")[:-1] == before
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "kept").rename(tmp_path / "data")
    assert resume_audit(tmp_path / "run", output=tmp_path / "result", quiet=True) == 5  # three items decide nothing


def test_a_run_that_goes_on_elsewhere_is_refused(finished: Finished, tmp_path: Path) -> None:
    folder = finished.killed(9, tmp_path / "run")
    with (
        hold_stopped_run(folder),
        pytest.raises(EnvironmentProblemError, match="another run is writing"),
        hold_stopped_run(folder),
    ):
        pass


def test_a_second_audit_into_a_folder_is_refused_and_the_first_ends_as_alone(world: Path, tmp_path: Path) -> None:
    """Processes of their own; the first is held still meanwhile, so that it has surely not ended."""
    folder = tmp_path / "run"
    with start_audit(world, folder) as first:
        first.send_signal(signal.SIGSTOP)
        before = (folder / EVENTS).read_bytes()
        for command in ([world / "original", world / "blank", "--run-dir", folder], ["--resume", folder]):
            second = quail("audit", *command)
            assert second.returncode == 4, second.stderr
            assert "another run is writing to this folder" in second.stderr
            assert second.stdout == ""
        assert (folder / EVENTS).read_bytes() == before
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    own = read_request(folder)
    assert isinstance(own, AuditRequest)
    assert own.batch_size == 1, "as started() asks, not as the second did"
    list(begin(own, tmp_path / "alone"))
    assert report_in(folder) == report_in(tmp_path / "alone")
    assert lines_of(folder) == lines_of(tmp_path / "alone")
    assert {path.name for path in folder.iterdir()} == {"request.json", EVENTS, REPORT}


def test_the_command_says_what_does_not_go_together(tmp_path: Path) -> None:
    found = quail("audit", "--resume", tmp_path)
    assert (found.returncode, "there is no audit here" in found.stderr) == (3, True)
    for given in (["a"], ["--seed", "0"], ["--run-dir", "b"], ["--scheme", "nf4"]):
        found = quail("audit", "--resume", tmp_path, *given)
        assert (found.returncode, "repeats what the run was asked for" in found.stderr) == (2, True), given
    found = quail("audit", "a")
    assert (found.returncode, "two checkpoints are needed" in found.stderr) == (2, True)


def recorded(events: Sequence[Event]) -> RecordedEvents:
    return RecordedEvents(iter(events))


def test_recorded_events_are_passed_on_up_to_the_one_that_is_said_again() -> None:
    run = list(made_up_events())
    before = recorded([event.model_copy(update={"at_s": 7.0}) for event in run[:12]])
    passed = []
    for event in run[:12]:
        if not isinstance(event, SampleScored):
            passed += before.replay_until(event)
            assert not before.is_over
    assert [to_line(event.model_copy(update={"at_s": 0.0})) for event in passed] == [to_line(e) for e in run[:12]]
    assert before.at_s == 7.0
    assert list(before.replay_until(run[12])) == []
    assert before.is_over


@pytest.mark.parametrize("place", range(1, 12))
def test_another_event_than_the_recorded_one_is_refused(place: int) -> None:
    run = list(made_up_events())
    with pytest.raises(BadInputError, match="does not go on as it began"):
        list(recorded(run[place:]).replay_until(run[0]))


def test_the_difference_is_named() -> None:
    first = next(made_up_events())
    for changes, message in (
        ({"quail_version": "0.0.9"}, "quail version was 0.0.9, and is 0.1.0"),
        ({"environment": {"python": "3.12.0"}}, "python was 3.12.0, and is 3.11.7"),
        ({"request": AuditRequest(original="a", unlearned="b")}, "run_started says another request"),
    ):
        with pytest.raises(BadInputError, match=message):
            list(recorded([first.model_copy(update=changes)]).replay_until(first))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills(world: Path, tmp_path: Path) -> None:
    """The process itself, killed at random moments from its start on; then it goes on, perhaps to be killed again."""
    command = [*QUAIL, "audit", world / "original", world / "blank", "--data", world / "data", "--device", "cpu"]
    options = ["--batch-size", "2", "--scheme", "nf4", "--scheme", "fp4-dq", "--quiet"]
    started_s = time.monotonic()
    assert quail(*command[len(QUAIL) :], *options, "--run-dir", tmp_path / "whole").returncode == 0
    whole_s = time.monotonic() - started_s
    expected = report_in(tmp_path / "whole")
    moment, kills, number = random.Random(0), 0, 0
    while kills < 50:
        folder = tmp_path / f"{number}"
        number += 1
        while True:
            begun = (folder / "request.json").exists()
            last = [*QUAIL, "audit", "--resume", folder] if begun else [*command, *options, "--run-dir", folder]
            process = subprocess.Popen(
                [*map(str, last)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | {"COLUMNS": "100"},
            )
            try:
                _, said = process.communicate(timeout=moment.uniform(0, 1.1 * whole_s))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                if (folder / EVENTS).exists() and (folder / EVENTS).stat().st_size:
                    read_report(folder)
                continue
            assert process.returncode == 0, said
            break
        assert report_in(folder) == expected
        assert lines_of(folder)[1:] == lines_of(tmp_path / "whole")[1:]
        assert {path.name for path in folder.iterdir()} <= {"request.json", EVENTS, REPORT, "writer.lock", "writer.id"}
