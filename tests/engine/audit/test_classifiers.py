"""Whole audits of tiny classifiers: an encoder with two labels, a decoder with three; and data of the other kind."""

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import quail_audit.cli.main  # noqa: F401 - registers the commands
from quail_audit.cli.app import app
from quail_audit.engine.audit.run import audit
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import MetricScored, SampleScored
from quail_audit.schema.events.lines import Event
from quail_audit.schema.requests import AuditRequest
from tests.support.tiny_classifiers import Kind, make_world

LABELS: dict[Kind, tuple[str, ...]] = {"encoder": ("real", "fake"), "decoder": ("real", "fake", "joke")}


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(request.param)
    make_world(root, request.param, LABELS[request.param])
    return root


def asked(world: Path, unlearned: str, **changes: object) -> list[Event]:
    values: dict[str, object] = {
        "original": str(world / "original"), "unlearned": str(world / unlearned), "retrain": str(world / "retrain"),
        "data": str(world / "data"), "device": "cpu",
    }  # fmt: skip
    return list(audit(AuditRequest.model_validate(values | changes), "run"))


def state_of(events: list[Event]) -> AuditState:
    state = AuditState()
    for event in events:
        state.apply(event)
    return state


def test_what_stays_forgotten_passes(world: Path) -> None:
    events = asked(world, "unlearned")
    report = state_of(events).report()
    assert report.exit_code == 0, report.verdict
    found = report.schemes["nf4"]
    assert {name for name, each in found.knowledge.items() if each.outcome == "holds"} == {
        "accuracy_forget", "label_probability_forget",
    }  # fmt: skip
    means = {(e.arm, e.metric): e.score.mean for e in events if isinstance(e, MetricScored)}
    assert means["original/full", "accuracy_forget"] == 100.0
    assert means["original/full", "agreement_forget"] == 100.0
    assert means["unlearned/full", "accuracy_forget"] == means["unlearned/full", "agreement_forget"] == 0.0
    assert means["unlearned/full", "accuracy_retain"] == 100.0
    for attack in ("loss", "confidence"):
        auc, reference = means["original/full", f"mia_{attack}"], means["retrain/full", f"mia_{attack}"]
        assert means["original/full", f"mia_{attack}_m3"] == pytest.approx(100 * (auc - reference) / reference)
        assert f"mia_{attack}" in found.knowledge
    samples = [e for e in events if isinstance(e, SampleScored) and e.metric == "accuracy_forget"]
    labels = LABELS["encoder" if "Bert" in str(report.checkpoints["original"].architecture) else "decoder"]
    assert {e.truth for e in samples} == {"real"}
    assert all(set(e.probabilities) == set(labels) and e.answer == next(iter(e.probabilities)) for e in samples)


def test_what_was_not_forgotten_fails(world: Path) -> None:
    report = state_of(asked(world, "original", metrics=("accuracy_forget",))).report()
    assert report.exit_code == 1
    assert report.schemes["nf4"].knowledge["accuracy_forget"].outcome == "not forgotten"


def test_data_of_the_other_kind_is_explained(world: Path, tmp_path: Path) -> None:
    """By the command, in this process: starting one takes seconds."""
    (tmp_path / "causal" / "verbmem").mkdir(parents=True)
    (tmp_path / "causal" / "verbmem" / "forget.json").write_text('[{"prompt": "a", "gt": "b"}]')
    command = (
        "audit",
        world / "original",
        world / "unlearned",
        "--data",
        tmp_path / "causal",
        "--run-dir",
        tmp_path / "r",
    )
    done = CliRunner().invoke(app, [str(part) for part in command])
    assert done.exit_code == 3
    assert "this data is for a language model, but" in done.stderr
    assert f"is a classifier ({'Bert' if world.name.startswith('encoder') else 'Llama'}" in done.stderr


def test_columns_by_another_name(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    for file in (tmp_path / "data").iterdir():
        file.write_text(file.read_text().replace("text,label", "post,verdict", 1))
    events = asked(
        world, "unlearned", data=str(tmp_path / "data"), text_column="post", label_column="verdict",
        metrics=("accuracy_test",), retrain=None,
    )  # fmt: skip
    assert "accuracy_test" in state_of(events).scores
