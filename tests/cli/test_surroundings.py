"""The audit where nothing is as at home: no terminal, locale or home, another user, a folder that cannot be written."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.places import ROOT

NOBODY = "65534"
# Root writes everywhere, so the tests are another user then; who may still read, as Python may lie in root's home.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
)  # fmt: skip


@pytest.fixture(scope="module")
def as_somebody() -> Sequence[str]:
    """What makes a command another user's, where the tests run as root."""
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None or subprocess.run([*AS_NOBODY, "true"], check=False).returncode:
        pytest.skip("running as root, and setpriv cannot make this another user's process here")
    return AS_NOBODY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that cannot be written, beside one that anybody can."""
    (tmp_path / "work").mkdir(mode=0o555)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    return tmp_path / "work"


def quail(as_somebody: Sequence[str], folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """In a pipe, without input, with next to no environment."""
    environment = {
        "PATH": os.environ["PATH"], "LANG": "C", "HOME": "/nonexistent", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.run(
        [*as_somebody, sys.executable, "-m", "quail_audit", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def test_a_run_folder_that_cannot_be_made_is_said_before_anything_is_measured(
    as_somebody: Sequence[str], folder: Path
) -> None:
    done = quail(as_somebody, folder, "audit", "original", "unlearned")
    assert done.returncode == 4
    message = done.stderr.decode("ascii")
    assert message.startswith("error: .quail/runs/")
    assert "Permission denied" in message
    assert "Choose a writable place with --run-dir" in message
    assert done.stdout == b""


@pytest.mark.slow
def test_an_audit_needs_no_terminal_no_locale_no_home_and_no_folder_of_its_own(
    as_somebody: Sequence[str], folder: Path, world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "out" / "run"
    pair = (world / "original", world / "blank", "--data", world / "data", "--max-samples", "2")
    done = quail(as_somebody, folder, "audit", *pair, "--run-dir", run)
    assert done.returncode == 0, done.stderr.decode()
    assert "✓ PASS" in done.stdout.decode("utf-8") or "PASS" in done.stdout.decode("ascii")
    assert b"\x1b" not in done.stdout + done.stderr
    assert (run / "report.json").is_file()
    assert not list(folder.iterdir())
    if as_somebody:
        assert run.stat().st_uid == int(NOBODY)
