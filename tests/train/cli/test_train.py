"""`quail train` as it is typed."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from quail_audit.cli.app import add_command
from quail_audit.core.errors import UsageError
from quail_audit.runs.folder import new_run
from quail_audit.runs.follow import replay
from quail_audit.runs.record import record
from quail_audit.schema.report import TrainingReport
from quail_train.cli import train as train_cli
from quail_train.cli.train import trainer_options
from quail_train.training.request import request_of
from tests.support.quail_command import quail
from tests.support.small_run import REQUEST, events

FEW = ("--max-steps", "2", "--batch-size", "3", "--max-length", "96", "--device", "cpu")


def arguments_in(world: Path, out: Path, *more: str | Path) -> list[str]:
    paths = (world / "original", world / "unlearned", "--data", world / "data", "--out", out)
    return [str(part) for part in (*paths, *FEW, "--run-dir", out.with_name("run"), *more)]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Typer:
    """The command in this process, where torch is imported already."""
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    app = Typer()
    add_command(train_cli.train, to=app)
    return app


def train(app: Typer, world: Path, out: Path, *more: str | Path) -> Result:
    return CliRunner().invoke(app, arguments_in(world, out, *more))


def test_a_training_from_the_command_line(training_world: Path, tmp_path: Path) -> None:
    more = ("--margin", "2", "--layers", "block:1", "--warmup-steps", "1")
    done = quail("train", *arguments_in(training_world, tmp_path / "out", *more))
    assert done.returncode == 0, done.stderr
    assert "2 of 2 steps" in done.stdout
    assert "margin 2 logits" in done.stdout
    assert "2 steps on 7 layers" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Failed to load" not in done.stderr
    report = TrainingReport.model_validate_json((tmp_path / "run" / "report.json").read_text())
    assert report.exit_code == 0
    assert report.request.trainer == {"warmup_steps": "1"}
    assert report.command[:2] == ("quail", "train")
    assert report.plan is not None
    assert report.plan.margin_logits == 2.0
    request = json.loads((tmp_path / "run" / "request.json").read_text())
    assert request["layers"] == ["block:1"]
    seen = quail("watch", tmp_path / "run", "--format", "json")
    assert seen.returncode == 0, seen.stderr
    assert TrainingReport.model_validate_json(seen.stdout) == report


def test_layers_at_risk_come_from_a_run(in_process: Typer, training_world: Path, tmp_path: Path) -> None:
    with new_run(tmp_path / "audit", REQUEST) as folder:
        list(record(events(), folder))
    done = train(
        in_process, training_world, tmp_path / "out", "--layers", "at-risk", "--report", tmp_path / "audit", "--quiet"
    )
    assert done.exit_code == 0, done.stderr
    (planned,) = [event for event in replay(tmp_path / "run") if event.type == "training_planned"]
    assert planned.layers == ("model.layers.0.mlp.down_proj",)


def test_a_folder_that_is_not_empty_is_left_alone(in_process: Typer, training_world: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    done = train(in_process, training_world, tmp_path / "out")
    assert done.exit_code == 2
    assert "not empty" in done.stderr
    assert not (tmp_path / "run").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert train(in_process, training_world, tmp_path / "out", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--objective", "gaa"], 2, "Did you mean ga?"),
        (["--layers", "block:9"], 2, "no layer matches 'block:9'"),
        (["--margin", "-1"], 2, "--margin"),
        (["--hinge", "square"], 2, "--hinge"),
        (["--lerning-rate", "1"], 2, "lerning"),
        (["--device", "cuda"], 4, "no such device"),
        (["--scheme", "nf5"], 2, "Did you mean nf4?"),
    ],
)
def test_what_is_refused(
    arguments: list[str], code: int, said: str, in_process: Typer, training_world: Path, tmp_path: Path
) -> None:
    done = train(in_process, training_world, tmp_path / "out", *arguments)
    assert done.exit_code == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_options_of_the_trainer() -> None:
    read = trainer_options(["--bf16", "--save-steps", "5", "--optim=sgd", "--fsdp", "full_shard"])
    assert read == {"bf16": "True", "save_steps": "5", "optim": "sgd", "fsdp": "full_shard"}
    with pytest.raises(UsageError, match="unexpected argument 'stray'"):
        trainer_options(["stray"])


def test_settings_of_a_preset_give_way_to_what_was_chosen() -> None:
    base = {"original": "a", "unlearned": "b", "data": "c", "out": "d"}
    assert request_of(**base).margin_logits is None
    repair = request_of(**base, objective="repair")
    assert repair.margin_logits is not None
    assert request_of(**base, objective="repair", margin_logits=None).margin_logits is None
    assert request_of(**base, objective="repair", hinge="l2").hinge == "l2"
