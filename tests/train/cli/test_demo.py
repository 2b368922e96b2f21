"""The demo as a stranger runs it, at full size: what `make demo` shows, and that it shows it again."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from quail_audit.runs.folder import read_report
from quail_audit.runs.follow import replay
from quail_audit.schema.report import Report
from tests.support.quail_command import quail

pytestmark = pytest.mark.slow
RETAIN = ("verbmem_retain", "knowmem_retain")
DECIDING = tuple(
    f"{kind}{score}_forget" for kind in ("verbmem", "knowmem") for score in ("", "_probability", "_extraction_strength")
)


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


def check_forgotten_and_kept(report: Report, schemes: Sequence[str]) -> None:
    """Forgotten as by a model that never knew, by every score that decides; kept as by the original in full."""
    assert report.verdict is not None
    assert report.verdict.outcome == "pass"
    for scheme in schemes:
        measured = report.schemes[scheme]
        means = {metric: {arm: score.mean for arm, score in arms.items()} for metric, arms in measured.metrics.items()}
        for metric in DECIDING:
            assert means[metric][f"unlearned/{scheme}"] <= means[metric]["retrain/full"], (scheme, metric)
            assert measured.knowledge[metric].outcome == "holds"
        for metric in RETAIN:
            kept = means[metric][f"unlearned/{scheme}"] / means[metric]["original/full"]
            print(f"{scheme}: {metric}: {100 * kept:.1f} % of the original's")
            assert kept >= 0.95, (scheme, metric)


def test_the_unlearned_model_keeps_what_it_must(folder: Path) -> None:
    """In full precision, and as the original at nf4: what fails in the demo is the forgetting, not the utility."""
    runs = sorted((folder / ".quail" / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    measured = read_report(runs[0]).schemes["nf4"]
    for metric in RETAIN:
        means = {arm: score.mean for arm, score in measured.metrics[metric].items()}
        assert means["unlearned/full"] >= 0.95 * means["original/full"]
        assert means["unlearned/nf4"] >= 0.95 * means["original/full"]


def test_the_repair_holds(folder: Path) -> None:
    done = quail("demo", "--repair", cwd=folder, limit_s=900)
    assert done.returncode == 0, done.stderr
    assert "the audit passes" in done.stdout
    runs = sorted((folder / ".quail" / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    (run,) = (run for run in runs if (run / "audit").exists())
    check_forgotten_and_kept(read_report(run / "audit"), ("nf4", "fp4"))
    events = list(replay(run))
    (saved,) = (event for event in events if event.type == "checkpoint_saved")
    card = (Path(folder) / saved.folder / "README.md").read_text()
    assert "quail train" in card
    assert "VerbMem, forget" in card


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("way", ["calibrated", "random", "feedback"])
def test_the_carried_update_holds(folder: Path, way: str, scheme: str) -> None:
    """In the format that it is carried for. fp4 erases no layer of the demo, so all are carried."""
    chosen = ("--calibration", "quail-demo/data") if way == "calibrated" else ("--way", way)
    layers = ("--layers", "erased" if scheme == "nf4" else "all")
    carried = f"carried-{way}-{scheme}"
    pair = ("quail-demo/original", "quail-demo/unlearned")
    done = quail("carry", *pair, "--scheme", scheme, "--out", carried, *layers, *chosen, cwd=folder, limit_s=300)
    assert done.returncode == 0, done.stderr
    run = f"audit-{way}-{scheme}"
    asked = ("--data", "quail-demo/data", "--retrain", "quail-demo/retrain", "--scheme", scheme, "--run-dir", run)
    done = quail("audit", "quail-demo/original", carried, *asked, cwd=folder, limit_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    check_forgotten_and_kept(read_report(folder / run), (scheme,))
