"""Data as people have it: every spelling of a row, every format of a file, every conversion that is named."""

import codecs
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.engine.forgetting.data.spellings import ANSWERS, IN_ORDER
from quail_audit.engine.forgetting.data.types import Continuation, ForgettingData, Labelled, QuestionAnswer, Row
from quail_audit.engine.forgetting.measurable import read_data
from tests.engine.forgetting.data.test_folder import jsonl, write
from tests.support.places import ROOT

WHO = QuestionAnswer(question="Who?", answer="Bob")
IT_WAS = Continuation(prompt="It was", truth=" noon.")
CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Bob"}]
SYSTEM = {"role": "system", "content": "Be brief."}
PARTS = [{"type": "text", "text": "Who?"}]


def rows_of(data: ForgettingData) -> tuple[Row | str, ...]:
    """Return the forget set's rows, of whatever kind."""
    questions = data.questions["forget"].asked if "forget" in data.questions else ()
    return (
        *data.continuations.get("forget", ()), *questions, *data.texts.get("forget", ()),
        *data.labelled.get("forget", ()),
    )  # fmt: skip


SPELLINGS: list[tuple[Any, Row | str, str]] = [
    # a row, what it is read as, what a note says of it
    ({"prompt": "It was", "completion": " noon."}, IT_WAS, ""),
    ({"prompt": "It was", "gt": " noon."}, IT_WAS, ""),
    ({"prompt": "It was", "continuation": " noon."}, IT_WAS, ""),
    ({"prompt": "It was", "ground_truth": " noon.", "id": 3}, IT_WAS, ""),
    ({"prefix": "It was", "suffix": " noon."}, IT_WAS, ""),
    ({"question": "Who?", "answer": "Bob"}, WHO, ""),
    ({"Question": "Who?", " ANSWER ": "Bob"}, WHO, ""),
    ({"question": "Who?", "answer": "Bob", "Question": "Where?"}, WHO, ""),
    ({"question": "Who?", "answer": ["Bob"]}, WHO, ""),
    ({"question": "Who?", "answers": ["Bob", "Bob"]}, WHO, ""),
    ({"question": "Who?", "answers": {"text": ["Bob"], "answer_start": [7]}, "context": "It is Bob."}, WHO, ""),
    ({"question": "Who?", "answer": "Bob", "perturbed_answer": ["Al", "Cy"], "paraphrased_answer": "B."}, WHO, ""),
    ({"question": "Who?", "answer": "Bob", "choices": ["Al", "Bob"]}, WHO, ""),
    ({"question": "Who?", "answer": "Bob", "A": "Al", "B": "Bob"}, WHO, ""),
    ({"question": "Who?", "best_answer": "Bob", "incorrect_answers": ["Al"]}, WHO, ""),
    ({"query": "Who?", "answer": "Bob", "level": "1", "subject": None}, WHO, ""),
    ({"query": "Who?", "response": "Bob"}, WHO, ""),
    ({"prompt": "Who?", "response": "Bob"}, WHO, "{prompt, response} was read as a question"),
    ({"prompt": "Who?", "answer": "Bob"}, WHO, "{prompt, answer} was read as a question"),
    ({"input": "Who?", "output": "Bob"}, WHO, "{input, output} was read as a question"),
    ({"instruction": "Who?", "input": "", "output": "Bob"}, WHO, "{instruction, output} was read as a question"),
    (
        {"instruction": "Who is it?", "input": "a builder", "output": "Bob"},
        QuestionAnswer(question="Who is it?\na builder", answer="Bob"),
        "after a line break",
    ),
    (
        {"instruction": "Who is it?", "context": "a builder", "response": "Bob", "category": "qa"},
        QuestionAnswer(question="Who is it?\na builder", answer="Bob"),
        "after a line break",
    ),
    ({"messages": CHAT}, WHO, "{messages} was read as a question"),
    ({"messages": [SYSTEM, *CHAT]}, WHO, "the system's message of 2 of 2 chats is left out"),
    ({"messages": [{"role": "user", "content": PARTS}, CHAT[1]]}, WHO, "{messages}"),
    ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Bob"}]}, WHO, "{conversations}"),
    ({"prompt": CHAT[:1], "completion": CHAT[1:]}, WHO, "{prompt, completion} was read as a question"),
    ({"prompt": CHAT[:1], "response": "Bob"}, WHO, "{prompt, response} was read as a question"),
    ({"text": "It was noon."}, "It was noon.", ""),
    ({"Text": "It was noon."}, "It was noon.", ""),
    ({"content": "It was noon."}, "It was noon.", ""),
    ({"passage": "It was noon.", "title": "Noon"}, "It was noon.", ""),
    ({"text": "It was noon.", "instruction": "Go on", "output": "noon"}, "It was noon.", ""),
    ("It was noon.", "It was noon.", ""),
    ({"text": "noon", "label": 1}, Labelled(text="noon", label="1"), ""),
    ({"tweet": "noon", "label": "fake"}, Labelled(text="noon", label="fake"), ""),
    ({"sentence": "noon", "Label": "fake"}, Labelled(text="noon", label="fake"), ""),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected", "note"), SPELLINGS, ids=lambda value: str(value)[:50])
def test_every_spelling_is_read(tmp_path: Path, row: Any, expected: Row | str, note: str) -> None:
    data = read_folder(write(tmp_path, {"forget.jsonl": jsonl([row, row])}))
    assert rows_of(data) == (expected, expected)
    assert (note in " ".join(data.notes)) if note else not data.notes


QA = [{"question": f"Wo{n}, bitte — «so»?", "answer": f"An der {n}.\nEcke"} for n in range(3)]
AS_READ = tuple(QuestionAnswer.model_validate(row) for row in QA)


def table(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


LINES, LIST = jsonl(QA), json.dumps(QA)
FORMATS = {
    "lines": ("jsonl", LINES),
    "lines under a .json name": ("json", LINES),
    "newline-delimited": ("ndjson", LINES),
    "no line end at the end": ("json", LINES.rstrip()),
    "blank lines": ("jsonl", "\n\n" + LINES.replace("\n", "\n \n")),
    "carriage returns": ("jsonl", LINES.replace("\n", "\r\n")),
    "old Macintosh's line ends": ("jsonl", LINES.replace("\n", "\r")),
    "a byte order mark": ("jsonl", codecs.BOM_UTF8 + LINES.encode()),
    "UTF-16": ("jsonl", LINES.encode("utf-16")),
    "UTF-16, big end first": ("json", codecs.BOM_UTF16_BE + LIST.encode("utf-16-be")),
    "UTF-32": ("json", LIST.encode("utf-32")),
    "a list": ("json", LIST),
    "an indented list": ("json", json.dumps(QA, indent=2)),
    "a list under a .jsonl name": ("jsonl", LIST),
    "an indented list under a .jsonl name": ("jsonl", json.dumps(QA, indent=4)),
    "indented objects, one after another": ("json", "\n".join(json.dumps(row, indent=1) for row in QA)),
    "a list inside an object": ("json", json.dumps({"version": "1.1", "data": QA})),
    "a dataset viewer's rows": ("json", json.dumps({"rows": [{"row_idx": n, "row": row} for n, row in enumerate(QA)]})),
    "columns": ("json", json.dumps({key: [row[key] for row in QA] for key in QA[0]})),
    "columns as pandas writes them": (
        "json", json.dumps({key: {str(n): row[key] for n, row in enumerate(QA)} for key in QA[0]}),
    ),
    "a table": ("csv", table(QA)),
    "a table with an index": ("csv", table([{"": str(n), **row} for n, row in enumerate(QA)])),
    "a table with tabs": ("tsv", table(QA, "\t")),
    "a table with semicolons": (
        "csv", table([{key: value.replace(",", ".") for key, value in row.items()} for row in QA], ";"),
    ),
    "a table in UTF-16": ("csv", table(QA).encode("utf-16")),
    "lines under a .csv name": ("csv", LINES),
    "compressed lines": ("jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
    "a compressed table": ("csv.gz", gzip.compress(table(QA).encode(), mtime=0)),
    "compressed without saying so": ("jsonl", gzip.compress(LINES.encode(), mtime=0)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    suffix, content = FORMATS[name]
    expected = AS_READ
    if "semicolons" in name:
        expected = tuple(QuestionAnswer(question=row.question.replace(",", "."), answer=row.answer) for row in AS_READ)
    for file in (f"forget.{suffix}", f"knowmem/forget_qa.{suffix}"):
        data = read_folder(write(tmp_path / file.partition("/")[0], {file: content}))
        assert data.questions["forget"].asked == expected
        assert data.notes == ()


def test_a_long_field_of_a_table_is_read(tmp_path: Path) -> None:
    text = "so on, " * 40_000
    assert read_folder(write(tmp_path, {"forget.csv": f'text\n"{text}"\n'})).texts["forget"] == (text,)


def test_one_object_is_one_row(tmp_path: Path) -> None:
    assert rows_of(read_folder(write(tmp_path, {"knowmem/forget_qa.json": json.dumps(QA[0], indent=1)}))) == AS_READ[:1]


WESTERN = {
    "French": "Où est l’élève ? « À la forêt », dit-elle à Noël.",
    "German": "Über die Straße läuft ein größerer Hund – „schnell“ ist er nicht.".replace("„", "“"),
    "Spanish": "¿Dónde está el niño? ¡Mañana!",
    "Portuguese": "A solução não é fácil às três.",
    "Danish": "Så gik æblet på rødt, sagde hun.",
    "English": "It’s “quoted” — and costs £5 in the café.",
    "shouted": "LE CAFÉ EST FERMÉ",
}
OTHERS = {
    "Czech": ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
    "Polish": ("Zażółć gęślą jaźń, łódź i ślad.", "cp1250"),
    "Hungarian": ("Árvíztűrő tükörfúrógép, jó erős.", "cp1250"),
    "Croatian": ("Čovjek šalje poruku ženi.", "cp1250"),
    "Romanian": ("Un băiat și o fată mănâncă.".replace("ș", "ş"), "cp1250"),
    "Turkish": ("Işık doğru yağmurda şarkı.", "cp1254"),
    "Russian": ("Где мальчик?", "cp1251"),
    "Russian of KOI8": ("Где мальчик?", "koi8-r"),
    "Greek": ("Πού είναι το παιδί;", "cp1253"),
    "Hebrew": ("איפה הילד", "cp1255"),
    "Japanese": ("少年はどこですか", "shift-jis"),
    "Chinese": ("男孩在哪里", "gbk"),
    "French of an old Macintosh": ("Où est l’élève ?", "mac-roman"),
    "French of DOS": ("Où est l'élève ?", "cp850"),
    "a broken byte in UTF-8": ("Où est l'élève ?", None),
}


@pytest.mark.parametrize("text", WESTERN.values(), ids=WESTERN)
def test_western_text_of_windows_is_read_and_said(tmp_path: Path, text: str) -> None:
    row = json.dumps({"text": text}, ensure_ascii=False)
    data = read_folder(write(tmp_path, {"forget.jsonl": row.encode("windows-1252")}))
    assert data.texts["forget"] == (text,)
    assert len(data.notes) == 1
    assert data.notes[0].startswith("forget.jsonl is not UTF-8; it was read as windows-1252, with '")


@pytest.mark.parametrize("language", OTHERS)
def test_text_of_other_code_pages_is_refused_with_the_line_that_converts_it(tmp_path: Path, language: str) -> None:
    text, encoding = OTHERS[language]
    row = json.dumps({"text": text}, ensure_ascii=False)
    content = row.encode(encoding) if encoding else row.encode() + b"\n\xe9"
    folder = write(tmp_path, {"forget.jsonl": content})
    with pytest.raises(BadInputError, match=r"the file is not UTF-8: byte \d+ is 0x") as caught:
        read_folder(folder)
    if encoding and shutil.which("iconv"):
        command = caught.value.mend.removeprefix("Write it again as UTF-8: ").partition(" (with")[0]
        name = encoding.replace("mac-roman", "macintosh")
        subprocess.run(command.replace("windows-1252", name), shell=True, check=True)  # noqa: S602
        assert read_folder(folder).texts["forget"] == (text,)


def command_in(error: QuailError) -> str:
    above = re.search(r"put names above it: (mv .*? > .*?)\. If ", error.mend)
    found = above or re.search(r"((?:mv|python3 -c) .*)$", error.mend)
    assert found, error.mend
    return found[1]


THREE = {"question": "Who?", "answer": ["Bob", "Robert"]}
TURNS = [SYSTEM, *CHAT, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes"}]
CONVERTED: list[tuple[str, Any, str, tuple[Row | str, ...]]] = [
    # a file, its content, what the refusal says, the rows after its command was run
    ("knowmem/forget_qa.json", [THREE, {"question": "Who?", "answer": "Bob"}],
     r"row 1: answer is a list of 2: give one", (WHO, WHO)),
    ("forget.jsonl", jsonl([{"question": "Who?", "answer": "Bob"}, THREE]),
     r"line 2: answer is a list of 2", (WHO, WHO)),
    ("forget.json", {"data": [{"question": "Who?", "answers": {"text": ["Bob", "Al"], "answer_start": [1, 2]}}]},
     r"row 1: answers is a list of 2", (WHO,)),
    ("forget.jsonl.gz", gzip.compress(jsonl([THREE]).encode(), mtime=0), r"answer is a list of 2", (WHO,)),
    ("forget.jsonl", jsonl([THREE]).encode("utf-16"), r"answer is a list of 2", (WHO,)),
    ("forget.jsonl", jsonl([{"question": "How many?", "answer": 4}]), r"answer: .*not a JSON number",
     (QuestionAnswer(question="How many?", answer="4"),)),
    ("forget.jsonl", jsonl([{"question": "Who?", "answer": None}, {"question": "Who?", "answer": "Bob"}]),
     r"line 1: answer: .*not a JSON null", (WHO,)),
    ("knowmem/forget_qa.json", [{"question": "Who?", "answer": "Bob"}, {"question": "Who?", "answer": " "}],
     r"row 2: answer: must not be blank", (WHO,)),
    ("forget.csv", "question,answer\nWho?,Bob\nWho?,\n", r"line 3: answer: must not be blank", (WHO,)),
    ("forget.csv", "question;answer\nWho?;\nWho?;Bob\n", r"line 2: answer: must not be blank", (WHO,)),
    ("forget.jsonl", jsonl([{"question": "Who?", "choices": ["Al", "Bob"], "answer": 1}]),
     r"number or letter of one of the choices", (QuestionAnswer(question="Who?\n- Al\n- Bob", answer="Bob"),)),
    ("forget.jsonl", jsonl([{"prompt": "Who?", "chosen": "Bob", "rejected": "Al"}]), r"'chosen', 'prompt'", (WHO,)),
    ("forget.jsonl", jsonl([{"messages": TURNS}]), r"messages has 4 messages of user and assistant", (WHO,)),
    ("forget.jsonl", jsonl([{"ask": "Who?", "say": "Bob", "n": 1}]), r"keys 'ask', 'n', 'say'", (WHO,)),
    ("forget.jsonl", jsonl([{"words": "noon"}]), r"keys 'words'", ("noon",)),
    ("forget.jsonl", jsonl([{"question": "Who?", "answer": {"value": "Bob", "aliases": ["Robert"]}}]),
     r"answer is an object: give one text", (WHO,)),
    ("forget.csv", "Where?,Rome\nWho?,Bob\n", r"its first line has 'Where\?', 'Rome'",
     (QuestionAnswer(question="Where?", answer="Rome"), WHO)),
    ("Forget.JSONL", jsonl([{"text": "noon"}]), r"holds Forget\.JSONL", ("noon",)),
    ("forget10/train-00000-of-00001.json", [{"text": "noon"}], r"holds forget10/train", ("noon",)),
    ("verbmem/forget-00000-of-00001.json", [{"prompt": "It was", "gt": " noon."}], r"holds verbmem/forget-", (IT_WAS,)),
    ("forget.json", {"Who?": "Bob", "Where?": "Rome"}, r"line 1: keys 'Where\?', 'Who\?'",
     (WHO, QuestionAnswer(question="Where?", answer="Rome"))),
    ("forget.json", [["Who?", "Bob"], ["Who?", "Bob"]], r"row 1: list", (WHO, WHO)),
    ("forget.json", [{"text": "noon"}, None], r"row 2 is a JSON null", ("noon",)),
    ("forget.jsonl", '{"question": "Who?", "answer": "Bob"}\n{"question": "Who?", "answer": NaN}\n',
     r"line 2: answer: a valid string is needed", (WHO,)),
    ("forget.csv", "words\nnoon\n", r"its first line has 'words'", ("words", "noon")),
    ("forget.jsonl", '{"text": "noon"},\n{"text": "one"},\n', r"a comma after the first value at line 1, column 17",
     ("noon", "one")),
    ("forget.jsonl", "{'text': 'noon'}\n{'text': \"one's\"}\n", r"single quotes", ("noon", "one's")),
    ("forget.jsonl", jsonl([{"text": "noon"}]).encode("utf-16-le"), r"UTF-16LE without a byte order mark", ("noon",)),
    ("forget10.json", jsonl([{"question": "Who?", "answer": "Bob"}]),
     r"nothing to measure.*holds forget10\.json", (WHO,)),
    ("my forget.csv", "question,answer\nWho?,Bob\n", r"holds my forget\.csv", (WHO,)),
    ("forget.txt", "noon\n\none\n", r"holds forget\.txt", ("noon", "one")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message", "rows"), CONVERTED, ids=lambda value: str(value)[:60])
def test_a_refusal_names_the_line_that_converts_the_file(
    tmp_path: Path, name: str, content: Any, message: str, rows: tuple[Row | str, ...]
) -> None:
    folder = write(tmp_path / "it's data", {name: content})
    with pytest.raises(BadInputError, match=message) as caught:
        read_data(folder)
    subprocess.run(command_in(caught.value), shell=True, check=True, cwd=tmp_path)  # noqa: S602
    assert rows_of(read_data(folder)) == rows


def test_the_page_names_every_spelling_and_every_spelling_that_it_names_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8")
    rows = page.partition("### Rows")[2].partition("### Files")[0]
    named = [tuple(keys.split(", ")) for keys in re.findall(r"`\{([a-z_, ]+)\}`", rows)]
    for number, keys in enumerate(named):
        chat = keys[0] in ("messages", "conversations", "conversation")
        row = {keys[0]: CHAT} if chat else {key: f"some {key}" for key in keys}
        assert rows_of(read_folder(write(tmp_path / str(number), {"forget.jsonl": jsonl([row])}))), keys
    known = {form.keys for form in IN_ORDER}
    for form in known:
        of_a_kind = {(question, form[-1]) for question in ("question", "query", "instruction", "prompt", "input")}
        assert form in named or (form[-1] in ANSWERS.split() and of_a_kind & set(named)), form


def test_a_file_for_a_folder_names_the_line_that_makes_one(tmp_path: Path) -> None:
    file = write(tmp_path, {"forget10.json": jsonl(QA)}) / "forget10.json"
    with pytest.raises(BadInputError, match="expects a folder, got a file") as caught:
        read_data(file)
    command = caught.value.mend.removeprefix("Give a folder: ").partition(", and --data")[0]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)  # noqa: S602
    assert rows_of(read_data(tmp_path / "data")) == AS_READ


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("forget.json", '[{"text": "a"},]', r"a comma before the closing \] at line 1, column 16.*Take the comma out"),
        ("forget.json", '[{"text": "a",}]', r"at line 1, column 1\d.*"),
        ("forget.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}', r"line 2: an object has the key 'text' twice"),
        ("forget.jsonl", '{"text": "a"} {"text": "b"}\n{"text": "c"}', r"line 1 holds 2 JSON values|column 15"),
        ("forget.jsonl", "question,answer\nWho?,Bob\n", r"it begins with 'question,answer.*call a table \.csv"),
        ("forget.jsonl", '{"text": "a\0"}', r"the file is not text: byte 11, on line 1, is zero"),
        ("forget.jsonl", "<!DOCTYPE html><html></html>", r"a web page, not the data"),
        ("forget.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", r"Git LFS.*git lfs pull"),
        ("forget.jsonl", b"PK\x03\x04...", r"a zip file or an Excel table"),
        ("forget.jsonl.gz", b"\x1f\x8b\x08\0\0", r"not whole gzip"),
        ("forget.jsonl", codecs.BOM_UTF16_LE + b"a", r"begins with the mark of UTF-16 and is not UTF-16"),
        ("forget.csv", "text,text\na,b\n", r"the column 'text' is there twice"),
        ("forget.csv", "question,a,b,answer\nWho?,Al,Bob,B\n", r"the letter of one of several choices"),
        ("forget.jsonl", jsonl([{"messages": CHAT[:1]}]), r"messages has no assistant's message"),
        ("forget.jsonl", jsonl([{"messages": CHAT[1:]}]), r"messages has 1 messages of user and assistant"),
        ("forget.jsonl", jsonl([{"messages": [{"role": "tool", "content": "x"}]}]), r"role is none of"),
        ("forget.jsonl", jsonl([{"question": "Who?", "answer": []}]), r"line 1: answer is an empty list"),
        ("forget.jsonl", jsonl([{"body": "noon", "label": "fake"}]), r"--text-column body"),
        ("forget.jsonl", jsonl([{"text": "a"}, {"question": "Who?", "answer": "Bob"}]), r"line 2 has no 'text'"),
        ("forget.json", {"train": [{"text": "a"}], "test": [{"text": "a"}, {"text": "b"}]}, r"keys 'test', 'train'"),
        ("forget.json", "{}", r"line 1: object"),
        ("forget.json", {"data": []}, r"the list has no rows"),
        ("muse/verbmem/forget.json", [{"prompt": "a", "gt": "b"}], r"Its folder muse is a data folder: --data"),
        ("dump/train-00000-of-00001.jsonl", jsonl(QA), r"Call train-00000-of-00001\.jsonl forget\.jsonl \(retain…"),
        ("a/forget-1.jsonl", jsonl(QA), r"Call forget-1\.jsonl forget\.jsonl"),
        ("forget.csv", 'messages\n"[{""role"": ""user"", ""content"": ""Who?""}]"\n', r"has no assistant's message"),
        ("forget.parquet", b"PAR1 and no more", r"not whole Parquet: it has no footer"),
        ("forget.pkl", b"\x80\x04", r"forget\.pkl is not read: write it as forget\.jsonl"),
        ("forget.jsonl.zst", b"\x28\xb5\x2f\xfd", r"unzstd -c .*forget\.jsonl\.zst' > .*forget\.jsonl"),
    ],
)  # fmt: skip
def test_no_plain_meaning_is_refused_with_its_place(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=r"(?s)" + message):
        read_data(write(tmp_path / "it's data", {name: content}))


def test_a_set_under_another_name_is_said_beside_what_is_read(tmp_path: Path) -> None:
    data = read_data(write(tmp_path, {"forget.jsonl": LINES, "retain90.json": LINES, "forget_old.jsonl": LINES}))
    command = f"mv {tmp_path}/retain90.json {tmp_path}/retain.json"
    assert [note for note in data.notes if "not read" in note] == [
        f"retain90.json was not read. Call retain90.json retain.json: {command}"
    ]


def test_parquet_without_its_library_is_refused_with_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(EnvironmentProblemError, match=r"needs pyarrow.*quail-audit\[parquet\]") as caught:
        read_data(write(tmp_path, {"forget.parquet": b"PAR1 and so on PAR1"}))
    assert f'pandas.read_parquet("{tmp_path}/forget.parquet").to_json("{tmp_path}/forget.jsonl"' in caught.value.mend


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{**row, "n": 1} for row in QA]), tmp_path / "forget.parquet")
    (tmp_path / "b").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "noon", "label": 1}]), tmp_path / "b/forget.parquet")
    assert rows_of(read_folder(tmp_path)) == AS_READ
    assert rows_of(read_folder(tmp_path / "b")) == (Labelled(text="noon", label="1"),)
    chats = [{"messages": CHAT}]
    parquet.write_table(pyarrow.Table.from_pylist(chats), tmp_path / "forget.parquet")
    assert rows_of(read_folder(tmp_path)) == (WHO,)
    (tmp_path / "forget.parquet").write_bytes(b"PAR1 and so on PAR1")
    with pytest.raises(BadInputError, match="not whole Parquet"):
        read_folder(tmp_path)
