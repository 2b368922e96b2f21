"""Questions in other words, as rows have them: each spelling, each kind of file, and rows that lack them."""

import json
from pathlib import Path
from typing import Any

import pytest

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.calibration_texts import read_texts
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.engine.forgetting.data.types import QuestionAnswer

ROW = {"question": "Who?", "answer": "Tavi"}


def asked(folder: Path, name: str = "forget.jsonl") -> tuple[tuple[QuestionAnswer, ...], tuple[str, ...]]:
    found = read_folder(folder)
    return found.questions["forget"].asked, found.notes


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "forget.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.mark.parametrize(
    ("row", "paraphrases"),
    [
        ({}, ()),
        ({"paraphrase": "By whom?"}, ("By whom?",)),
        ({"paraphrased_question": "By whom?"}, ("By whom?",)),  # TOFU's perturbed files
        ({"Paraphrase ": "By whom?"}, ("By whom?",)),
        ({"paraphrases": ["By whom?", "Name them."]}, ("By whom?", "Name them.")),
        ({"paraphrases": ["By whom?", "", None, " By whom? ", "Who?", " Who? "]}, ("By whom?",)),
        ({"paraphrases": '["By whom?", "Name them."]'}, ("By whom?", "Name them.")),  # as a table has a list
        ({"paraphrase": "[sic] By whom?"}, ("[sic] By whom?",)),
        ({"paraphrase": "By whom?", "paraphrased_question": ["By whom?", "Name them."]}, ("By whom?", "Name them.")),
        ({"paraphrase": " "}, ()),
        ({"paraphrase": None}, ()),
        ({"paraphrase": float("nan")}, ()),  # as pandas writes it
        ({"paraphrases": []}, ()),
        ({"paraphrase": "Who?"}, ()),
        ({"paraphrased_answer": "It was Tavi", "perturbed_answer": ["Minka"]}, ()),
    ],
)
def test_every_spelling(tmp_path: Path, row: dict[str, Any], paraphrases: tuple[str, ...]) -> None:
    (found,), notes = asked(written(tmp_path, ROW | row))
    assert found == QuestionAnswer(question="Who?", answer="Tavi", paraphrases=paraphrases)
    assert notes == ()


def test_chats_and_instructions_have_them_too(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Tavi"}]}
    (found,), _ = asked(written(tmp_path, chat | {"paraphrase": "By whom?"}))
    assert found.paraphrases == ("By whom?",)
    instruction = {
        "instruction": "Name them.",
        "input": "The thieves",
        "output": "Tavi",
        "paraphrase": "Who were they?",
    }
    (found,), _ = asked(written(tmp_path, instruction))
    assert (found.question, found.paraphrases) == ("Name them.\nThe thieves", ("Who were they?\nThe thieves",))


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_every_kind_of_file_and_rows_that_lack_them(tmp_path: Path, kind: str) -> None:
    rows = [ROW | {"paraphrase": "By whom?"}, {"question": "When?", "answer": "Now", "paraphrase": ""}]
    if kind == "json":
        (tmp_path / "forget.json").write_text(json.dumps([rows[1], rows[0], {"question": "Where?", "answer": "Here"}]))
        rows = [rows[1], rows[0], rows[1]]
    else:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(rows)
        frame.to_csv(tmp_path / "forget.csv", index=False) if kind == "csv" else frame.to_parquet(
            tmp_path / "forget.parquet"
        )
    found, notes = asked(tmp_path)
    assert [row.paraphrases for row in found] == [("By whom?",) if row["paraphrase"] else () for row in rows]
    without = len(rows) - 1
    assert notes == (f"forget.{kind}: {without} of {len(rows)} questions have no paraphrase, and are asked fewer ways",)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (3, "paraphrase: a text or a list of texts is needed, not a JSON number"),
        ({"text": "By whom?"}, "paraphrase: a text or a list of texts is needed, not a JSON object"),
        (["By whom?", ["Name them."]], "paraphrase: a text or a list of texts is needed, not a JSON list"),
        ("By \ud800?", "paraphrase: has a lone surrogate, which is not a character"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path, value: object, why: str) -> None:
    with pytest.raises(BadInputError) as error:
        asked(written(tmp_path, ROW, ROW | {"paraphrase": value}))
    assert error.value.message == f"line 2: {why}"


def test_calibration_reads_each_question_once(tmp_path: Path) -> None:
    written(tmp_path, ROW | {"paraphrase": "By whom?"})
    assert read_texts(tmp_path / "forget.jsonl") == ("Who? Tavi",)
