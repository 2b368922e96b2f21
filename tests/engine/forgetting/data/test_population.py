"""How many items there are to forget in all: said by an option or by the data, and refused if it cannot be."""

import json
from pathlib import Path

import pytest

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.forgetting.data.population import population_by_metric
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.schema.layout import data_files

TEXTS = [{"prompt": f"It was {n}", "gt": " o'clock"} for n in range(4)]
QUESTIONS = [{"question": f"Was it {n}?", "answer": "Yes"} for n in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "verbmem").mkdir()
    (tmp_path / "knowmem").mkdir()
    (tmp_path / "verbmem/forget.json").write_text(json.dumps(TEXTS))
    (tmp_path / "verbmem/retain.json").write_text(json.dumps(TEXTS * 9))
    (tmp_path / "knowmem/forget_qa.json").write_text(json.dumps(QUESTIONS))
    return tmp_path


def said(folder: Path, text: str) -> Path:
    (folder / "population.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24", {"verbmem": 24, "knowmem": 24}),
        (" \ufeff6\n".strip(" "), {"verbmem": 6, "knowmem": 6}),
        ('"all"', {"verbmem": 4, "knowmem": 6}),
        ('{"verbmem": 24, "knowmem": 48}', {"verbmem": 24, "knowmem": 48}),
        ('{"verbmem": "all"}', {"verbmem": 4}),
        ('{"knowmem": 6, "labelled": 3}', {"knowmem": 6}),
        ("{}", {}),
    ],
)
def test_the_data_says_it(folder: Path, text: str, expected: dict[str, int]) -> None:
    """Count the items in the files before --max-samples cuts them."""
    assert read_data(said(folder, text)).population == expected
    assert read_data(folder, max_samples=2).population == expected
    assert "population.json" in data_files(folder)


def test_nothing_is_said_by_default(folder: Path) -> None:
    assert read_data(folder).population == {}


def test_the_option_wins_and_counts_for_every_kind(folder: Path) -> None:
    assert read_data(said(folder, "not JSON"), population=7).population == {"verbmem": 7, "knowmem": 7}
    with pytest.raises(UsageError) as error:
        read_data(folder, max_samples=1, population=5)
    assert error.value.message == "the forget set cannot have 5 items in all: the data has 6 of knowmem"
    assert error.value.where == "--population"
    assert "Give 6 or more" in error.value.mend


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("5", "the forget set cannot have 5 items in all: the data has 6 of knowmem"),
        ("-1", "the forget set cannot have -1 items in all: the data has 4 of verbmem"),
        ('{"verbmem": 3}', "the forget set cannot have 3 items in all: the data has 4 of verbmem"),
        ("9999999999", "the forget set cannot have 9999999999 items in all: at most 1000000000 can be"),
        ("24.0", "24.0 is not a number of items"),
        ("true", "true is not a number of items"),
        ("null", "a JSON null is not a number of items"),
        ('"\\u001b[31mmany"', '"\\u001b[31mmany" is not a number of items'),
        ('{"verbmem": [24]}', "a JSON list is not a number of items"),
        ('{"verbmen": 24}', "'verbmen' is no kind of item: verbmem, knowmem, labelled"),
        ('{"verbmem": 24, "verbmem": 4}', "line 1: an object has the key 'verbmem' twice"),
        ("24 25", "the file is not valid JSON: Extra data at line 1"),
        ("", "the file holds 0 JSON values, not one"),
        ("{", "the file is not valid JSON"),
        ("9" * 5000, "line 1: the file is not valid JSON"),
    ],
)
def test_what_cannot_be_is_refused_with_a_mend(folder: Path, text: str, why: str) -> None:
    with pytest.raises(BadInputError) as error:
        read_data(said(folder, text))
    assert error.value.message.startswith(why)
    assert error.value.message.isprintable()
    assert error.value.where == str(folder / "population.json")


def test_classified_texts_are_a_kind(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_text("text,label\na,1\nb,0\n")
    (tmp_path / "retain.csv").write_text("text,label\na,1\nb,0\nc,0\n")
    data = read_data(said(tmp_path, '"all"'))
    assert data.population == {"labelled": 2}
    assert population_by_metric(data) == {"accuracy_forget": 2, "label_probability_forget": 2}


def test_metrics_that_decide_and_are_measured_have_it(folder: Path) -> None:
    said(folder, '{"verbmem": 24, "knowmem": 48}')
    found = population_by_metric(read_data(folder))
    assert found["verbmem_forget"] == 24
    assert found["knowmem_forget"] == 48
    scores = ("", "_probability", "_extraction_strength")
    assert set(found) <= {f"{kind}{score}_forget" for kind in ("verbmem", "knowmem") for score in scores}
    assert population_by_metric(read_data(folder, metrics=("nll_forget", "knowmem_forget"))) == {"knowmem_forget": 48}
