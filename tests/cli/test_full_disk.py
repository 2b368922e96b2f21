"""Every command that writes, on a real disk that is full: exit 4, said so, and what was there stays whole.

A tmpfs in a mount namespace is the disk. It is as large as it has to be, and filled up but for some pages.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quail_audit.runs.folder import new_run
from quail_audit.runs.record import record
from tests.support import made_runs
from tests.support.places import ROOT
from tests.support.small_run import REQUEST

SIZE = "64m"
OLD = "what was there before\n"


@functools.cache
def has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    asked = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


def fill_up(tmp_path: Path, before: Path, *command: object, step: int = 1) -> int:
    """Run a command on a disk that is full from each so manieth page on; return how often it was."""
    if not has_namespaces():
        pytest.skip("needs unshare and a kernel that lets users mount: no small disk can be made here")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={SIZE} tmpfs {disk} && exec "$@"'
    script = [sys.executable, "-m", "tests.support.filling_disk", str(disk), str(before), str(step)]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *script, *map(str, command)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["bad"] == {}
    assert said["full"] > 0, "no write met a full disk"
    return int(said["full"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    with new_run(root / "run", REQUEST) as folder:
        for _ in record(iter(made_runs.events(schemes=("nf4", "int8"), blocks=12, samples=20)), folder):
            pass
    return folder


@pytest.fixture
def before(tmp_path: Path) -> Path:
    folder = tmp_path / "before"
    folder.mkdir()
    for name in ("report.html", "README.md"):
        (folder / name).write_text(OLD)
    return folder


def test_a_report_and_a_card(tmp_path: Path, before: Path, run: Path) -> None:
    fill_up(
        tmp_path, before, "report", run, "--format", "html", "--output", "report.html", "--model-card", "README.md",
        step=8,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_figures(tmp_path: Path, before: Path, run: Path) -> None:
    fill_up(tmp_path, before, "report", run, "--figures", "figures", step=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "format", ["text", "json", "jsonl", "markdown", "junit", "sarif", "csv", "csv-metrics", "csv-samples"]
)
def test_every_format(tmp_path: Path, before: Path, run: Path, format: str) -> None:  # noqa: A002
    fill_up(tmp_path, before, "report", run, "--format", format, "--output", "report.html")


@pytest.mark.slow
def test_a_comparison(tmp_path: Path, before: Path, run: Path) -> None:
    fill_up(tmp_path, before, "compare", run, run, "--format", "json", "--output", "report.html")


def test_a_policy(tmp_path: Path, before: Path) -> None:
    fill_up(tmp_path, before, "policy", "init")


def test_a_signature(tmp_path: Path, before: Path, run: Path) -> None:
    key = before / "release.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    shutil.copy(run / "report.json", before)
    fill_up(tmp_path, before, "sign", "report.json", "--key", "release.pem")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_audit(tmp_path: Path, before: Path, erased_run: Path) -> None:
    pair = erased_run.parent
    fill_up(
        tmp_path, before, "audit", pair / "original", pair / "unlearned", "--data", pair / "data", "--run-dir", "run",
        "--format", "html", "--output", "report.html", "--metric", "nll_forget", step=4,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_carry_and_its_copy_in_4_bits(tmp_path: Path, before: Path, erased_run: Path) -> None:
    pair = erased_run.parent
    for name in ("out", "copy"):
        shutil.copytree(pair / "unlearned", before / name)
    fill_up(
        tmp_path, before, "carry", pair / "original", pair / "unlearned", "--out", "out", "--copy-4bit", "copy",
        "--run-dir", "run", "--overwrite", step=16,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training(tmp_path: Path, before: Path, erased_run: Path) -> None:
    pair = erased_run.parent
    shutil.copytree(pair / "unlearned", before / "out")
    fill_up(
        tmp_path, before, "train", pair / "original", pair / "unlearned", "--data", pair / "data", "--out", "out",
        "--objective", "ga", "--max-steps", 2, "--batch-size", 3, "--max-length", 96, "--device", "cpu",
        "--run-dir", "run", "--overwrite", "--save-steps", 1, step=24,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_attribution_and_a_recipe(tmp_path: Path, before: Path, erased_run: Path) -> None:
    audited = tmp_path / "audited"
    shutil.copytree(erased_run, audited)
    (tmp_path / "first").mkdir()
    fill_up(tmp_path / "first", before, "attribute", audited, "--run-dir", "run", "--budget", 4, step=2)
    subprocess.run([sys.executable, "-m", "quail_audit", "attribute", audited, "--quiet"], check=True)
    fill_up(tmp_path, before, "recipe", audited, "--run-dir", "run", step=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_demo(tmp_path: Path, before: Path) -> None:
    fill_up(tmp_path, before, "demo", "quail-demo", step=256)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_what_is_shown(run: Path) -> None:
    """Output that cannot be written is exit 4, never the 1 of a verdict."""
    for output, arguments, code in (
        ("out", ["report", run], 4),
        ("out", ["verify", run, "--format", "json", "--quiet"], 4),
        ("out", ["schema"], 4),
        ("out", ["--help"], 4),
        ("err", ["verify", run], 5),
        ("err", ["report", run / "nowhere"], 3),
    ):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "quail_audit", *map(str, arguments)],
                stdout=full if output == "out" else subprocess.PIPE,
                stderr=full if output == "err" else subprocess.PIPE,
                text=True,
                check=False,
                env=os.environ | {"COLUMNS": "100"},
            )
        assert done.returncode == code, (output, arguments, done.stderr)
        if output == "out":
            assert "the disk is full" in done.stderr, arguments
            assert "defect" not in done.stderr
            assert "Traceback" not in done.stderr
