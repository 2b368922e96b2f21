import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core import interruption
from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.runs import writer
from quail_audit.runs.folder import list_runs, new_run, read_report
from quail_audit.runs.follow import read_events, replay, replay_placed
from quail_audit.runs.names import EVENTS, LOCK, REPORT, WRITER
from quail_audit.runs.record import record
from quail_audit.runs.writer import Writer
from quail_audit.schema.events.common import RunFailed, RunFinished
from quail_audit.schema.events.lines import Event, to_line
from quail_audit.schema.report import Report
from tests.support.places import ROOT
from tests.support.small_run import REQUEST, events


def recorded(folder: Path) -> list[Event]:
    with new_run(folder, REQUEST):
        return list(record(events(), folder))


def test_a_run_is_on_disk_as_it_was_seen(tmp_path: Path) -> None:
    seen = recorded(tmp_path / "run")
    assert list(replay(tmp_path / "run")) == seen
    report = Report.model_validate_json((tmp_path / "run" / REPORT).read_text())
    assert report == read_report(tmp_path / "run")
    assert report.exit_code == 1
    assert report.schemes["nf4"].metrics["verbmem_forget"]["unlearned/nf4"].mean == 94.0
    assert json.loads((tmp_path / "run" / "request.json").read_text())["original"] == "original"


def test_events_are_timed(tmp_path: Path) -> None:
    times = [event.at_s for event in recorded(tmp_path / "run")]
    assert times == sorted(times)


def test_each_event_is_written_before_it_is_seen(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", REQUEST) as folder:
        for number, _ in enumerate(record(events(), folder), start=1):
            assert (folder / EVENTS).read_text().count("\n") == number


def broken(error: BaseException) -> Iterator[Event]:
    for event in events():
        yield event
        if event.type == "weights_measured":
            raise error


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (BadInputError("bad", where="file", mend="mend it"), "bad input", 3),
        (KeyboardInterrupt(), "interrupted", 130),
        (ZeroDivisionError("oops"), "defect", 4),
    ],
)
def test_a_failed_run_keeps_what_was_measured(tmp_path: Path, error: BaseException, kind: str, exit_code: int) -> None:
    seen = []
    with new_run(tmp_path / "run", REQUEST) as folder, pytest.raises(type(error)):
        for event in record(broken(error), folder):
            seen.append(event)  # noqa: PERF402 - the error comes in the middle
    assert isinstance(seen[-1], RunFailed)
    assert seen[-1].kind == kind
    report = read_report(folder)
    assert report.exit_code == exit_code
    assert report.verdict is None
    assert len(report.schemes["nf4"].layers) == 2
    assert Report.model_validate_json((folder / REPORT).read_text()) == report


def test_a_reader_that_stops_interrupts_the_run(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", REQUEST) as folder:
        stream = record(events(), folder)
        next(stream)
        stream.close()
    last = list(replay(folder))[-1]
    assert isinstance(last, RunFailed)
    assert last.exit_code == 130


def test_a_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    seen = recorded(tmp_path / "run")
    path = tmp_path / "run" / EVENTS
    path.write_bytes(path.read_bytes()[:-20])
    assert list(replay(tmp_path / "run")) == seen[:-1]


def test_a_spoilt_line_is_named(tmp_path: Path) -> None:
    recorded(tmp_path / "run")
    path = tmp_path / "run" / EVENTS
    lines = path.read_text().splitlines()
    lines[2] = "spoilt"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInputError) as caught:
        list(replay(tmp_path / "run"))
    assert "line 3" in caught.value.where


@given(st.binary(max_size=300))
def test_any_bytes_are_replayed_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / EVENTS).write_bytes(data)
    try:
        list(replay(folder))
    except BadInputError:
        pass


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no run here"):
        list(replay(tmp_path))


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", REQUEST) as folder:
        assert Writer(folder).is_alive()
        script = f"""
            from pathlib import Path
            from quail_audit.schema.requests import AuditRequest
            from quail_audit.runs.folder import new_run
            with new_run(Path({str(folder)!r}), AuditRequest(original="a", unlearned="b")):
                print("got in")
        """
        other = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
        )
        assert "another run is writing" in other.stderr
        assert "got in" not in other.stdout
    assert not Writer(folder).is_alive()
    assert not (folder / LOCK).exists()


def test_a_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path / "run")
    before = (tmp_path / "run" / EVENTS).read_bytes()
    with pytest.raises(BadInputError, match="already holds a run"), new_run(tmp_path / "run", REQUEST):
        pass
    assert (tmp_path / "run" / EVENTS).read_bytes() == before


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInputError, match="is a file"), new_run(tmp_path / "run", REQUEST):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentProblemError, match=r"cannot write.*--run-dir"),
        new_run(tmp_path / "file" / "run", REQUEST),
    ):
        pass


def test_a_full_disk_keeps_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: both fail a write after part of it is done."""
    script = f"""
        import resource, signal
        from pathlib import Path
        from tests.support.small_run import REQUEST, events
        from quail_audit.runs.folder import new_run
        from quail_audit.runs.record import record
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
        with new_run(Path({str(tmp_path / "run")!r}), REQUEST) as folder:
            list(record(events(), folder))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "EnvironmentProblemError" in done.stderr
    kept = (tmp_path / "run" / EVENTS).read_bytes()
    assert 0 < len(kept) <= 2500
    assert kept.endswith(b"\n")
    assert len(list(replay(tmp_path / "run"))) == kept.count(b"\n")
    assert not list((tmp_path / "run").glob(".*unfinished"))


def test_following_sees_events_as_they_come_and_ends_with_the_run(tmp_path: Path) -> None:
    seen: list[Event] = []
    with new_run(tmp_path / "run", REQUEST) as folder:
        stream = record(events(), folder)
        next(stream)
        reader = threading.Thread(target=lambda: seen.extend(replay(folder, follow=True)))
        reader.start()
        for _ in stream:
            time.sleep(0.01)
        reader.join(timeout=10)
    assert not reader.is_alive()
    assert isinstance(seen[-1], RunFinished)
    assert seen == list(replay(folder))


def test_following_a_killed_run_ends(tmp_path: Path) -> None:
    script = f"""
        import time
        from pathlib import Path
        from tests.support.small_run import REQUEST, events
        from quail_audit.runs.folder import new_run
        from quail_audit.runs.record import record
        with new_run(Path({str(tmp_path / "run")!r}), REQUEST) as folder:
            for event in record(events(), folder):
                if event.type == "weights_measured":
                    print("measured", flush=True)
                    time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "measured\n"
        assert Writer(tmp_path / "run").is_alive()
        writer.send_signal(signal.SIGKILL)
    seen = list(replay(tmp_path / "run", follow=True))
    assert seen[-1].type == "weights_measured"
    assert read_report(tmp_path / "run").verdict is None


def test_one_line_an_event(tmp_path: Path) -> None:
    seen = recorded(tmp_path / "run")
    assert (tmp_path / "run" / EVENTS).read_text() == "".join(to_line(event) + "\n" for event in seen)


def test_memory_of_a_long_run_is_bounded_by_what_is_kept(tmp_path: Path) -> None:
    """Recording keeps sums of samples, not the samples: 20,000 of them must not grow the process by their texts."""

    def many() -> Iterator[Event]:
        for event in events(answer="x" * 1000):
            if event.type == "sample_scored":
                yield from (event for _ in range(4000))
            else:
                yield event

    with new_run(tmp_path / "run", REQUEST) as folder:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in record(many(), folder):
            pass
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 10_000


def test_events_are_found_again_by_their_places(tmp_path: Path) -> None:
    seen = recorded(tmp_path / "run")
    placed = list(replay_placed(tmp_path / "run"))
    assert [p.event for p in placed] == seen
    assert read_events(tmp_path / "run", [p.offset for p in reversed(placed)]) == seen[::-1]


def test_a_place_that_is_no_events_beginning_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path / "run")
    with pytest.raises(BadInputError, match="not an event"):
        read_events(tmp_path / "run", [3])


def test_a_writer_on_another_machine_lives_as_long_as_its_heart_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other machine's lock is not seen here, as on a shared folder without locks."""
    clock_s = 1000.0
    monkeypatch.setattr(writer.time, "monotonic", lambda: clock_s)
    (tmp_path / LOCK).write_text("")
    (tmp_path / WRITER).write_text("another machine")
    found = Writer(tmp_path)
    assert found.is_alive()
    clock_s += writer.SILENCE_S - 1
    assert found.is_alive()
    os.utime(tmp_path / LOCK, (5.0, 5.0))  # its clock may be far off: only that it moves counts
    assert found.is_alive()
    clock_s += writer.SILENCE_S - 1
    assert found.is_alive()
    clock_s += 2
    assert not found.is_alive()
    (tmp_path / LOCK).unlink()
    assert not found.is_alive()


def test_the_writers_heart_beats_and_its_traces_are_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "HEARTBEAT_INTERVAL_S", 0.01)
    with new_run(tmp_path / "run", REQUEST) as folder:
        os.utime(folder / LOCK, (5.0, 5.0))
        deadline_s = time.monotonic() + 10
        while (folder / LOCK).stat().st_mtime == 5.0 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert (folder / LOCK).stat().st_mtime != 5.0
        assert (folder / WRITER).exists()
    assert not (tmp_path / "run" / WRITER).exists()


def test_runs_are_listed_with_how_they_ended(tmp_path: Path) -> None:
    recorded(tmp_path / "ended")
    recorded(tmp_path / "killed")
    lines = (tmp_path / "killed" / EVENTS).read_bytes().splitlines(keepends=True)
    (tmp_path / "killed" / EVENTS).write_bytes(b"".join(lines[:-3]) + lines[-3][:10])
    os.utime(tmp_path / "killed" / EVENTS, (5.0, 5.0))
    (tmp_path / "no run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / EVENTS).write_text("{}")
    found = list_runs(tmp_path, limit=10)
    assert [(run.folder.name, run.exit_code) for run in found] == [("ended", 1), ("killed", None)]
    assert found[0].request == REQUEST
    assert list_runs(tmp_path / "absent", limit=10) == []
    assert len(list_runs(tmp_path, limit=1)) == 1


def test_a_stop_that_a_library_swallowed_still_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal's exception lands in code that catches everything, or comes out as another error."""
    asked = threading.Event()
    monkeypatch.setattr(interruption, "_asked", asked)

    def swallowing() -> Iterator[Event]:
        for event in events():
            if event.type == "planned":
                with suppress(KeyboardInterrupt):
                    interruption.interrupt(15, None)
            yield event

    with new_run(tmp_path / "swallowed", REQUEST) as folder, pytest.raises(KeyboardInterrupt):
        list(record(swallowing(), folder))
    last = list(replay(tmp_path / "swallowed"))[-1]
    assert isinstance(last, RunFailed)
    assert (last.kind, last.exit_code) == ("interrupted", 130)

    asked.clear()

    def turning() -> Iterator[Event]:
        yield next(events())
        with suppress(KeyboardInterrupt):
            interruption.interrupt(15, None)
        raise RuntimeError("Error calling __set_name__")

    with new_run(tmp_path / "turned", REQUEST) as folder, pytest.raises(RuntimeError):
        list(record(turning(), folder))
    last = list(replay(tmp_path / "turned"))[-1]
    assert isinstance(last, RunFailed)
    assert last.kind == "interrupted"
