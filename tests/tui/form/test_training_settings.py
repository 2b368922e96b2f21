"""What is typed of a training's settings, read: values, or what is wrong in words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.schema.command_line import train_arguments
from quail_audit.schema.requests import TrainRequest
from quail_audit.tui.form.training_settings import (
    PAPERS_OBJECTIVE,
    SETTINGS,
    objective_help,
    objectives,
    read_settings,
    suggested_output,
)


@pytest.fixture
def typed(tmp_path: Path) -> dict[str, str]:
    """What is enough."""
    (tmp_path / "data").mkdir()
    return {"objective": PAPERS_OBJECTIVE, "out": str(tmp_path / "out"), "data": str(tmp_path / "data")}


def test_every_setting_is_a_field_of_the_request_with_help_and_its_default() -> None:
    for setting in SETTINGS:
        assert setting.name in TrainRequest.model_fields
        assert setting.help or setting.name == "objective"
        assert len(setting.label) <= 14
    defaults = {setting.name: setting.default for setting in SETTINGS}
    assert defaults["margin_logits"] == "auto"
    assert defaults["objective"] == PAPERS_OBJECTIVE
    assert (defaults["learning_rate"], defaults["epochs"], defaults["max_steps"]) == ("1e-05", "5", "")


def test_every_objective_is_explained_and_listed_once() -> None:
    assert objectives()[0] == PAPERS_OBJECTIVE
    assert len(set(objectives())) == len(objectives())
    assert {"ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "hinge_gdr", "repair", "lora"} <= {*objectives()}
    assert all(objective_help(name) for name in objectives())


def test_what_is_left_empty_is_not_given(typed: dict[str, str]) -> None:
    chosen = read_settings({**typed, "epochs": "  "})
    assert (dict(chosen.problems), set(chosen.values)) == ({}, {"objective", "out", "data"})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "2.5", 2.5),
        ("hinge_weight", "0", 0.0),
        ("batch_size", "4", 4),
        ("learning_rate", "1e-4", 1e-4),
        ("margin_logits", "5", 5.0),
        ("margin_logits", "auto", None),
        ("hinge", "centred", "centred"),
    ],
)
def test_numbers_are_read(typed: dict[str, str], name: str, text: str, value: object) -> None:
    chosen = read_settings({**typed, name: text})
    assert not chosen.problems
    assert chosen.values[name] == value


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("epochs", "0", "must be a number above 0"),
        ("epochs", "five", "must be a number above 0"),
        ("epochs", "nan", "must be a number above 0"),
        ("learning_rate", "inf", "must be a number above 0"),
        ("hinge_weight", "-1", "must be a number, 0 or more"),
        ("batch_size", "2.5", "must be a whole number, 1 or more"),
        ("batch_size", "0", "must be a whole number, 1 or more"),
        ("margin_logits", "half", "must be auto, or a number above 0"),
        ("out", "", "is missing: name a folder for the result"),
        ("data", "", "is missing: training needs the forget and retain texts"),
        ("data", "/nowhere/at/all", "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_words(typed: dict[str, str], name: str, text: str, problem: str) -> None:
    assert read_settings({**typed, name: text}).problems == {name: problem}


def test_an_output_that_is_taken_is_refused(typed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    said = read_settings({**typed, "out": str(tmp_path / "full")}).problems["out"]
    assert said == "exists and is not empty: name a new folder"
    said = read_settings({**typed, "out": str(tmp_path / "full" / "config.json")}).problems["out"]
    assert said == "is a file: name a folder"
    (tmp_path / "empty").mkdir()
    assert not read_settings({**typed, "out": str(tmp_path / "empty")}).problems


def test_the_suggested_output_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert suggested_output("org/llama@main") == "llama-repaired"
    local = tmp_path / "unlearned"
    local.mkdir()
    assert suggested_output(f"{local}/") == f"{local}-repaired"
    (tmp_path / "unlearned-repaired").mkdir()
    (tmp_path / "unlearned-repaired" / "x").touch()
    assert suggested_output(str(local)) == f"{local}-repaired-2"


@given(st.sampled_from([setting.name for setting in SETTINGS]), st.text(max_size=30))
def test_no_text_breaks_the_reading(name: str, text: str) -> None:
    read_settings({name: text})


def test_what_is_given_is_written_even_where_it_is_the_default() -> None:
    request = TrainRequest(original="o", unlearned="u", data="d", out="r", objective="repair", hinge_weight=1.0)
    plain = ["train", "o", "u", "--data", "d", "--out", "r", "--objective", "repair"]
    assert train_arguments(request) == plain
    given = train_arguments(request, given={"hinge_weight", "margin_logits"})
    assert given == [*plain, "--hinge-weight", "1", "--margin", "auto"]
