"""A request becomes a command line that means the same request."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from quail_audit.cli import main as cli
from quail_audit.core.values import Value
from quail_audit.schema.command_line import audit_arguments, invalid_option, train_arguments
from quail_audit.schema.requests import AuditRequest, CarryRequest, TrainRequest

words = st.text("abcXYZ09_./- é", min_size=1, max_size=12).filter(lambda text: not text.startswith("-"))


def several(one: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(one, min_size=1, max_size=3, unique=True).map(tuple)


names = several(words.filter(str.isascii))
requests = st.builds(
    AuditRequest,
    original=words,
    unlearned=words,
    retrain=st.none() | words,
    retrain_auc=st.none() | st.floats(0.01, 0.99),
    data=st.none() | words,
    schemes=names,
    metrics=st.none() | names,
    text_column=st.none() | words,
    label_column=st.none() | words,
    skip_modules=st.none() | several(words),
    max_samples=st.none() | st.integers(1, 10**6),
    population=st.none() | st.integers(1, 10**9),
    prompt_format=st.sampled_from(("auto", "raw", "chat")),
    stop_when_decided=st.booleans(),
    batch_size=st.none() | st.integers(1, 512),
    device=st.sampled_from(("auto", "cpu", "cuda:1")),
    dtype=st.sampled_from(("auto", "bfloat16")),
    seed=st.integers(0, 2**31),
    policy=st.none() | words,
    limits=st.just({})
    | st.fixed_dictionaries({"max_recovery_percent": st.floats(0, 100), "overlap_at_risk": st.just(0.9)}),
    baseline=st.none() | words,
)


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[AuditRequest, dict[str, Any]]:
    seen: list[tuple[AuditRequest, dict[str, Any]]] = []

    def record(request: AuditRequest, **others: Any) -> int:
        seen.append((request, others))
        return 0

    monkeypatch.setattr("quail_audit.cli.audit.run_audit", record)
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return seen[0]


@given(request=requests)
def test_the_command_reads_back_as_the_same_request(request: AuditRequest) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        found, others = parsed(audit_arguments(request, run_dir=Path("runs/1")), monkeypatch)
    assert found == request
    assert others["run_dir"] == Path("runs/1")


def test_what_has_its_default_is_left_out() -> None:
    """But for the policy, whose default is whatever lies in the working folder."""
    assert audit_arguments(AuditRequest(original="a", unlearned="b")) == ["audit", "a", "b", "--policy", "none"]


@pytest.mark.parametrize("file", ["quail.toml", "pyproject.toml"])
@pytest.mark.parametrize("policy", [None, "quail.toml", "other.toml", "./none"])
def test_the_command_means_the_same_policy_where_the_folder_has_its_own(
    file: str, policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text("[tool.quail.limits]\n" if file == "pyproject.toml" else "[limits]\n")
    monkeypatch.chdir(tmp_path)
    request = AuditRequest(original="a", unlearned="b", policy=policy)
    assert parsed(audit_arguments(request), monkeypatch)[0] == request
    assert parsed(["audit", "a", "b"], monkeypatch)[0].policy == file


def test_a_file_that_is_called_none_is_read_and_not_taken_for_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a request that nobody typed can name it so."""
    found, _ = parsed(audit_arguments(AuditRequest(original="a", unlearned="b", policy="none")), monkeypatch)
    assert found.policy == "./none"


def test_a_training_is_written_with_the_options_of_the_design() -> None:
    request = TrainRequest(
        original="a",
        unlearned="b",
        data="d",
        out="o",
        layers=("block:3-7", "role:down_proj"),
        margin_logits=5.0,
        learning_rate=1e-4,
        report="runs/1",
    )
    assert train_arguments(request, run_dir=Path("r")) == [
        *("train", "a", "b", "--data", "d", "--out", "o", "--margin", "5"),
        *("--layers", "block:3-7", "--layers", "role:down_proj", "--report", "runs/1"),
        *("--learning-rate", "0.0001", "--run-dir", "r"),
    ]


@pytest.mark.parametrize(
    ("kind", "wrong", "option"),
    [
        (TrainRequest, {"margin_logits": "wide"}, "--margin"),
        (CarryRequest, {"copy_4bit": 4}, "--copy-4bit"),
        (CarryRequest, {"calibrate": 4}, "--calibration"),
        (AuditRequest, {"skip_modules": 4}, "--skip-module"),
    ],
)
def test_an_invalid_field_is_said_with_its_option(kind: type[Value], wrong: dict[str, Any], option: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"original": "a", "unlearned": "b", "data": "d", "out": "o"} | wrong)
    error = invalid_option(caught.value, "quail train")
    assert (error.where, error.mend) == (option, "See quail train --help")


def test_every_field_of_a_request_has_an_option() -> None:
    command = typer.main.get_command(cli.app).commands["audit"]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    for field in AuditRequest.model_fields:
        request = AuditRequest.model_construct(**{**AuditRequest(original="a", unlearned="b").__dict__, field: "x"})
        given_options = {part for part in audit_arguments(request) if part.startswith("--")}
        assert given_options <= options, field
