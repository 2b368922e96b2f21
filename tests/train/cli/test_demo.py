"""The demo as a stranger runs it, at full size: what `make demo` shows, and that it shows it again."""

from pathlib import Path

import pytest

from quail_audit.runs.folder import read_report
from quail_audit.runs.follow import replay
from tests.support.quail_command import quail

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stranger")


def test_the_demo_shows_the_catastrophe(folder: Path) -> None:
    done = quail("demo", cwd=folder, limit_s=900)
    assert done.returncode == 1, done.stderr
    assert "✗ FAIL" in done.stdout
    assert "that is how this demo is meant to end" in done.stdout
    assert "Next" in done.stdout
    (run,) = (folder / ".quail" / "runs").iterdir()
    measured = read_report(run).schemes["nf4"]
    assert measured.summary is not None
    assert measured.summary.overlap == 1.0
    assert measured.summary.layers_erased == len(measured.layers) == 28
    for metric in ("verbmem_forget", "knowmem_forget"):
        means = {arm: score.mean for arm, score in measured.metrics[metric].items()}
        assert means["unlearned/full"] < 25
        assert means["unlearned/nf4"] == means["original/nf4"], "every code is the original's"
        assert means["retrain/full"] < means["original/full"] - 40
        assert measured.knowledge[metric].outcome == "comes back"
    for metric in ("verbmem_retain", "knowmem_retain"):
        means = {arm: score.mean for arm, score in measured.metrics[metric].items()}
        assert min(means.values()) >= 0.9 * means["original/full"]


def test_a_built_demo_is_used_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "quail-demo").rglob("*.safetensors")}
    done = quail("demo", cwd=folder, limit_s=900)
    assert done.returncode == 1
    assert "already built" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_repair_holds(folder: Path) -> None:
    """Forgotten at 4 bits as well as a model that never knew, and what must stay has stayed; in under a minute."""
    done = quail("demo", "--repair", cwd=folder, limit_s=900)
    assert done.returncode == 0, done.stderr
    assert "the audit passes" in done.stdout
    runs = sorted((folder / ".quail" / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    (run,) = (run for run in runs if (run / "audit").exists())
    report = read_report(run / "audit")
    for scheme in ("nf4", "fp4"):
        measured = report.schemes[scheme]
        verbmem = {arm: score.mean for arm, score in measured.metrics["verbmem_forget"].items()}
        assert verbmem[f"unlearned/{scheme}"] <= verbmem["retrain/full"] + 5
        kept = {arm: score.mean for arm, score in measured.metrics["verbmem_retain"].items()}
        assert kept[f"unlearned/{scheme}"] >= 0.95 * kept["original/full"]
        for metric in ("verbmem_forget", "knowmem_forget"):
            assert measured.knowledge[metric].outcome == "holds"
    events = list(replay(run))
    (saved,) = (event for event in events if event.type == "checkpoint_saved")
    card = (Path(folder) / saved.folder / "README.md").read_text()
    assert "quail train" in card
    assert "VerbMem, forget" in card
