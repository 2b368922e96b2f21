"""Backends in processes of their own, by stand-ins: what is said, what a crash becomes, and what stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError
from quail_audit.engine.schemes.backends.messages import Job, LayerStarted, RoundedToNearest
from quail_audit.engine.schemes.backends.process import Scratch, run
from tests.support.places import ROOT

HEAD = """
import os, signal, sys, time
from quail_audit.engine.schemes.backends.messages import LayerStarted, RoundedToNearest

class Library:
    def round(self, layer):
        what(layer)

def quantize(job, report):
    Library.round = report.watch(Library.round, lambda self, layer: layer)
    for layer in ("first", "second"):
        Library().round(layer)
"""

Backend = Callable[[str], str]


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Makes a module that stands in for a backend's: `what(layer)` is what its library does for each of two layers."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(what: str) -> str:
        (tmp_path / "stand_in.py").write_text(f"{HEAD}\ndef what(layer):\n    {what}\n")
        return "stand_in"

    return make


def job(backend: str, scratch: Scratch) -> Job:
    folder = str(scratch.folder / "made")
    return Job(
        backend=backend, model="model", folder=folder, rows=((1, 2),), method="gptq", bits=4, group_size=32,
        desc_act=False, dtype="float32", device="cpu", seed=0,
    )  # fmt: skip


def raised_by(backend: str) -> tuple[QuailError, list[object]]:
    said: list[object] = []
    with Scratch() as scratch, pytest.raises(QuailError) as caught:
        for message in run(job(backend, scratch), scratch, "org/model"):
            said.append(message)  # noqa: PERF402 - those before the error count
    assert not scratch.folder.exists()
    return caught.value, said


def test_layers_are_said_in_order_and_what_is_written_can_be_read(backend: Backend) -> None:
    name = backend("print('noise'); os.makedirs(sys.argv[1] + '.d', exist_ok=True)")
    with Scratch() as scratch:
        said = list(run(job(name, scratch), scratch, "org/model"))
        assert said == [LayerStarted(name="first"), LayerStarted(name="second")]
        assert list(scratch.folder.rglob("job.json.d"))
    assert not scratch.folder.exists()


def test_nothing_is_made_where_nothing_is_asked_for() -> None:
    with Scratch() as scratch:
        assert "folder" not in vars(scratch)


def test_rounding_to_nearest_is_said(backend: Backend, tmp_path: Path) -> None:
    name = backend("pass")
    source = (tmp_path / "stand_in.py").read_text()
    (tmp_path / "stand_in.py").write_text(source + "\nplain = quantize\ndef quantize(job, report):\n"
        "    plain(job, report)\n    report(RoundedToNearest(name=report.layer))\n")  # fmt: skip
    with Scratch() as scratch:
        assert list(run(job(name, scratch), scratch, "org/model"))[-1] == RoundedToNearest(name="second")


def test_a_failing_hessian_is_bad_input_and_names_the_layer(backend: Backend) -> None:
    error, said = raised_by(
        backend("import torch; layer == 'second' and torch.linalg.cholesky(-torch.eye(2, dtype=torch.float64))")
    )
    assert isinstance(error, BadInputError)
    assert "Hessian" in error.message
    assert "at second" in error.message
    assert "not positive-definite" in error.message
    assert "--calibration" in error.mend
    assert said == [LayerStarted(name="first"), LayerStarted(name="second")]


def test_an_error_of_the_library_is_told_without_its_escape_codes(backend: Backend) -> None:
    error, _ = raised_by(backend("raise RuntimeError('\\x1b[31mno\\x1b[0m such kernel')"))
    assert isinstance(error, EnvironmentProblemError)
    assert error.message.startswith("stand_in failed at first: RuntimeError:")
    assert "such kernel" in error.message
    assert "\x1b" not in str(error)


def test_a_library_that_ends_the_process_is_told_with_its_last_words(backend: Backend) -> None:
    error, _ = raised_by(backend("layer == 'second' and (print('goodbye', flush=True), os._exit(7))"))
    assert error.message == "stand_in ended with exit code 7 at second: goodbye"


def test_a_library_that_ends_early_without_an_error_is_no_success(backend: Backend) -> None:
    error, _ = raised_by(backend("os._exit(0)"))
    assert "ended with exit code 0 at first" in error.message


def test_a_killed_backend_is_told_as_such(backend: Backend) -> None:
    error, _ = raised_by(backend("os.kill(os.getpid(), signal.SIGKILL)"))
    assert error.message == "stand_in was killed at first"
    assert "memory" in error.mend


def test_a_missing_library_is_told(backend: Backend) -> None:
    error, _ = raised_by(backend("import no_such_library"))
    assert "No module named 'no_such_library'" in error.message


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_stopping_ends_a_hanging_backend_and_its_children(backend: Backend, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    name = backend(
        "import subprocess; child = subprocess.Popen(['sleep', '600']); "
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(600)"
    )
    with Scratch() as scratch:
        messages = run(job(name, scratch), scratch, "org/model")
        assert next(messages) == LayerStarted(name="first")
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        messages.close()  # what stopping an audit does
        wait_for(lambda: all(gone(int(pid)) for pid in pids.read_text().split()))
    assert not scratch.folder.exists()


def test_killing_the_audit_leaves_nothing_behind(backend: Backend, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    name = backend(f"open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    script = (
        "from tests.engine.schemes.backends.test_process import job, run, Scratch\n"
        f"with Scratch() as scratch:\n    print(scratch.folder, flush=True)\n"
        f"    list(run(job({name!r}, scratch), scratch, 'org/model'))\n"
    )
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    audit = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert audit.stdout is not None
    folder = Path(audit.stdout.readline().strip())
    wait_for(lambda: pids.exists() and bool(pids.read_text()))
    assert folder.is_dir()
    audit.send_signal(signal.SIGKILL)
    audit.wait()
    wait_for(lambda: not folder.exists() and gone(int(pids.read_text())))


def wait_for(happened: Callable[[], bool]) -> None:
    """The limit is only for a test that fails: it is generous."""
    for _ in range(600):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it never happened")
