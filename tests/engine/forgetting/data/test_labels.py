"""Reading classifiers' data, and fitting it to a model: forms, columns, labels, and what is refused and how."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.labels import label_names
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.data.types import Labelled
from quail_audit.engine.forgetting.measurable import fit_data, read_data
from tests.support.tiny_classifiers import write_csv


@dataclass
class FakeLayout:
    architecture: str | None


@dataclass
class FakeFiles:
    tensors: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeCheckpoint:
    """What fit_data asks a checkpoint."""

    config: dict[str, Any]
    source: str = "org/model"
    folder: Path = Path("/model")
    adapter_of: None = None
    files: FakeFiles = field(default_factory=FakeFiles)
    layout: FakeLayout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = FakeLayout((self.config.get("architectures") or [None])[0])


def bert(*labels: str, **changes: Any) -> Any:
    named = {"id2label": {str(i): label for i, label in enumerate(labels)}} if labels else {}
    return FakeCheckpoint({"architectures": ["BertForSequenceClassification"], **named}, **changes)


LLAMA: Any = FakeCheckpoint({"architectures": ["LlamaForCausalLM"]})


def test_csv_with_quotes_line_ends_and_more_columns(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_bytes(
        b'\xef\xbb\xbfid,tweet,label\r\n1,"He said ""no"",\nthen left",fake\r\n\r\n2,plain, real \r\n'
    )
    data = read_data(tmp_path)
    assert data.labelled["forget"] == (
        Labelled(text='He said "no",\nthen left', label="fake"),
        Labelled(text="plain", label="real"),
    )
    assert data.samples == {"accuracy_forget": 2, "label_probability_forget": 2, "macro_f1_forget": 2}
    assert "mia_loss" in data.skipped
    assert "verbmem_forget" not in data.skipped, "of no use to a classifier, so not named as absent"


def test_every_set_and_how_many_samples_each_metric_has(tmp_path: Path) -> None:
    for name, count in {"forget": 3, "retain": 4, "test": 5, "holdout": 2}.items():
        write_csv(tmp_path / f"{name}.csv", [(f"text {i}", "real") for i in range(count)])
    assert read_data(tmp_path).samples == {
        "accuracy_forget": 3, "accuracy_retain": 4, "accuracy_test": 5, "label_probability_forget": 3,
        "macro_f1_forget": 3, "macro_f1_retain": 4, "macro_f1_test": 5, "mia_loss": 5, "mia_confidence": 5,
    }  # fmt: skip
    assert read_data(tmp_path, max_samples=2).samples["mia_loss"] == 4


def test_lines_of_json_with_numbers_for_labels(tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "", "label": "0"}\n')
    assert read_data(tmp_path).labelled["forget"] == (Labelled(text="a", label="1"), Labelled(text="", label="0"))


def test_columns_can_be_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "forget.csv", [("x", "hello", "joy")], ("text", "Body", "mood"))
    data = read_data(tmp_path, columns=Columns("Body", "mood"))
    assert data.labelled["forget"] == (Labelled(text="hello", label="joy"),)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("forget.csv", "id,body,label\n1,a,b\n", "its first line has 'id', 'body', 'label'"),
        ("forget.csv", "", "the file is empty"),
        ("forget.csv", "text,label\n", "no rows"),
        ("forget.csv", "text,label\na,b\nc\n", "line 3 has 1 fields, the first line 2"),
        ("forget.csv", "text,label\na,\n", "line 2: label: must not be blank"),
        ("forget.csv", 'text,label\n"a"b,c\n', "line 2 is not valid CSV"),
        ("forget.csv", 'text,label\n"a,c\n', "is not valid CSV"),
        ("forget.jsonl", '{"text": "a", "label": true}\n', "label: a valid string is needed, not a JSON truth value"),
        ("forget.jsonl", '{"text": "a", "label": "x"}\n{"text": "a"}\n', "line 2 has no 'label'"),
        ("forget.jsonl", '{"text": "a\\ud800", "label": "x"}\n', "lone surrogate"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(BadInputError, match=message) as caught:
        read_data(tmp_path)
    assert caught.value.where.endswith(file)


def test_a_set_given_twice_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "test.csv", [("a", "b")])
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": "b"}')
    with pytest.raises(BadInputError, match="given twice"):
        read_data(tmp_path)


@pytest.mark.parametrize(
    ("given", "names", "becomes"),
    [
        ("fake", ("real", "fake"), "fake"),
        ("FAKE", ("real", "fake"), "fake"),
        ("1", ("real", "fake"), "fake"),
        ("1", ("1", "0"), "1"),
        ("1", (), "LABEL_1"),
        ("LABEL_1", (), "LABEL_1"),
    ],
)
def test_labels_become_the_models_own(tmp_path: Path, given: str, names: tuple[str, ...], becomes: str) -> None:
    write_csv(tmp_path / "forget.csv", [("a", given)])
    data = fit_data(read_data(tmp_path), bert(*names))
    assert data.labelled["forget"][0].label == becomes
    assert data.labels == (names or ("LABEL_0", "LABEL_1"))


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        ("satire", ("real", "fake"), "the label satire is none of the model's: real, fake"),
        ("fake", (), "the model names none of its own, so only numbers can be matched"),
        ("2", ("real", "fake"), "the label 2 is none"),
        ("Fake", ("fake", "FAKE"), "the label Fake is none"),
    ],
)
def test_labels_of_no_class_are_explained(tmp_path: Path, given: str, names: tuple[str, ...], message: str) -> None:
    write_csv(tmp_path / "forget.csv", [("a", given)])
    with pytest.raises(BadInputError, match=message) as caught:
        fit_data(read_data(tmp_path), bert(*names))
    assert "id2label" in caught.value.mend


def test_checkpoints_that_number_their_classes_otherwise(tmp_path: Path) -> None:
    write_csv(tmp_path / "forget.csv", [("a", "fake")])
    data = read_data(tmp_path)
    with pytest.raises(BadInputError, match="its labels are fake, real, those of org/model real, fake"):
        fit_data(data, bert("real", "fake"), bert("fake", "real", source="other"))
    assert fit_data(data, bert("real", "fake"), bert()).labels == ("real", "fake")


def test_data_of_the_other_task_is_explained_in_a_sentence(tmp_path: Path) -> None:
    write_csv(tmp_path / "labelled" / "forget.csv", [("a", "fake")])
    (tmp_path / "causal").mkdir()
    (tmp_path / "causal" / "forget.jsonl").write_text('{"text": "a"}')
    with pytest.raises(BadInputError) as caught:
        fit_data(read_data(tmp_path / "labelled"), LLAMA)
    assert caught.value.message == (
        "this data is for a classifier, but org/model is a language model (LlamaForCausalLM)"
    )
    with pytest.raises(BadInputError) as caught:
        fit_data(read_data(tmp_path / "causal"), bert("real", "fake"))
    assert caught.value.message == (
        "this data is for a language model, but org/model is a classifier (BertForSequenceClassification)"
    )


def test_a_folder_for_both_is_read_for_the_model_there_is(tmp_path: Path) -> None:
    write_csv(tmp_path / "forget.csv", [("a", "fake")])
    (tmp_path / "privleak").mkdir()
    (tmp_path / "privleak" / "forget.json").write_text('["a"]')
    data = read_data(tmp_path)
    assert set(fit_data(data, LLAMA).samples) == {"nll_forget"}
    fitted = fit_data(data, bert("real", "fake"))
    assert set(fitted.samples) == {"accuracy_forget", "label_probability_forget", "macro_f1_forget"}
    assert fitted.skipped["nll_forget"] == "not for a classifier"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "only"}}, "does not choose one label among several"),
        ({"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}, "does not choose one label"),
        ({"id2label": {"0": "a", "2": "b"}}, "each class once, from 0 on"),
        ({"id2label": {"0": "a", "1": "a"}}, "each class once"),
        ({"id2label": ["a", "b"]}, "does not choose one label"),
    ],
)
def test_models_without_a_label_of_several(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        label_names(config, "/model")
