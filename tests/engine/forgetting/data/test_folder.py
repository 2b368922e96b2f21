"""The data reader: every layout it knows, and every way a file can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError, QuailError, UsageError
from quail_audit.engine.forgetting.data.types import Continuation, ForgettingData, QuestionAnswer
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.metrics.registry import known_metrics, metric_named
from tests.support.places import SHARED_DATA

QA = [{"question": f"Who {n}?", "answer": f"Nobody {n}"} for n in range(3)]
CONTINUATIONS = [{"prompt": f"It was {n}", "gt": f" o'clock {n}"} for n in range(3)]
TEXTS = [f"Text number {n}." for n in range(3)]


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def jsonl(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def truth_scores(kind: str, items: int) -> dict[str, int]:
    """The scores of one forward pass that come with VerbMem or KnowMem of the forget set."""
    return {f"{kind}_{score}_forget": items for score in ("probability", "extraction_strength", "exact_memorization")}


def membership(texts: int) -> dict[str, int]:
    names = ("privleak", "membership_loss", "membership_zlib", "membership_min_k_plus_plus")
    return dict.fromkeys(names, texts)


def test_muse_layout_is_read_whole(tmp_path: Path) -> None:
    data = read_data(
        write(
            tmp_path,
            {
                "verbmem/forget.json": CONTINUATIONS,
                "verbmem/retain.json": CONTINUATIONS[:1],
                "knowmem/forget_qa.json": QA,
                "knowmem/forget_qa_icl.json": QA[:2],
                "knowmem/retain_qa.json": QA[:2],
                "privleak/forget.json": TEXTS,
                "privleak/retain.json": TEXTS[:2],
                "privleak/holdout.json": TEXTS[:1],
                "raw/forget.txt": "for training",
            },
        )
    )
    assert data.samples == {
        "nll_forget": 3,
        "nll_retain": 2,
        **membership(4),
        **truth_scores("verbmem", 3),
        **truth_scores("knowmem", 3),
        "knowmem_forget": 3,
        "knowmem_retain": 2,
        "verbmem_forget": 3,
        "verbmem_retain": 1,
    }
    assert data.skipped == {}
    assert data.continuations["forget"][1] == Continuation(prompt="It was 1", truth=" o'clock 1")
    assert data.questions["forget"].examples == tuple(QuestionAnswer.model_validate(row) for row in QA[:2])
    assert data.notes == (
        "knowmem_retain was asked without in-context examples: the data has no knowmem/retain_qa_icl.json",
    )


def test_names_of_the_public_muse_repository(tmp_path: Path) -> None:
    data = read_data(
        write(
            tmp_path,
            {
                "knowmem/retain2_qa.json": QA,
                "knowmem/retain2_qa_icl.json": QA[:1],
                "privleak/retain2.json": TEXTS,
            },
        )
    )
    assert data.samples == {"nll_retain": 3, "knowmem_retain": 3}
    assert len(data.questions["retain"].examples) == 1
    unread = {"nll_forget", "knowmem_forget", "verbmem_forget", "verbmem_retain"}
    assert set(data.skipped) == unread | {*membership(0), *truth_scores("verbmem", 0), *truth_scores("knowmem", 0)}


@pytest.mark.parametrize(
    ("rows", "samples"),
    [
        ([{"text": "One."}, {"text": "Two."}], {"nll_forget": 2}),
        (
            [{"prompt": "One", "completion": " two"}],
            {"nll_forget": 1, "verbmem_forget": 1, **truth_scores("verbmem", 1)},
        ),
        (
            [{"question": "One?", "answer": "Two", "source": "extra keys are ignored"}],
            {"knowmem_forget": 1, **truth_scores("knowmem", 1)},
        ),
    ],
)
def test_forms_of_jsonl(tmp_path: Path, rows: list[Any], samples: dict[str, int]) -> None:
    data = read_data(write(tmp_path, {"forget.jsonl": jsonl(rows)}))
    assert data.samples == samples


def test_a_line_separator_inside_a_string_ends_no_row(tmp_path: Path) -> None:
    data = read_data(write(tmp_path, {"forget.jsonl": '{"text": "one\u2028two\x85three"}\r\n\n{"text": "b"}'}))
    assert data.texts["forget"] == ("one\u2028two\x85three", "b")


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert read_data(write(tmp_path, {"forget.jsonl": b'\xef\xbb\xbf{"text": "a"}'})).samples == {"nll_forget": 1}


def test_max_samples_takes_some_of_each_but_all_examples(tmp_path: Path) -> None:
    files = {"knowmem/forget_qa.json": QA, "knowmem/forget_qa_icl.json": QA, "privleak/forget.json": TEXTS}
    data = read_data(write(tmp_path, files), max_samples=2)
    assert data.samples == {"nll_forget": 2, "knowmem_forget": 2, **truth_scores("knowmem", 2)}
    assert set(data.texts["forget"]) < set(TEXTS)
    assert len(data.questions["forget"].examples) == 3


def test_only_the_metrics_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, {"knowmem/forget_qa.json": QA, "verbmem/forget.json": CONTINUATIONS})
    data = read_data(folder, metrics=("verbmem_forget",))
    assert data.samples == {"verbmem_forget": 3}
    assert data.skipped["knowmem_forget"] == "not asked for"
    assert data.notes == ()


def test_unknown_metric_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'verbmem_forgot'.*Did you mean verbmem_forget\?"):
        read_data(write(tmp_path, {"verbmem/forget.json": CONTINUATIONS}), metrics=("verbmem_forgot",))


def test_metric_without_data_is_an_error_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no data for the metric privleak.*privleak/holdout\.json"):
        read_data(write(tmp_path, {"verbmem/forget.json": CONTINUATIONS}), metrics=("privleak",))


VERBMEM = "verbmem/forget.json"
DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({VERBMEM: ""}, r"verbmem/forget\.json: the file is empty"),
        ({VERBMEM: "[1,"}, r"not valid JSON: .* at line 1, column 4"),
        ({VERBMEM: b'["\xff"]'}, r"not UTF-8: byte 2 is 0xff"),
        ({VERBMEM: []}, r"the list has no rows.*\{prompt, gt\}"),
        ({VERBMEM: {"prompt": "a", "truth": "b"}}, r"line 1 has no 'gt' \(keys 'prompt', 'truth'\)"),
        ({VERBMEM: [*CONTINUATIONS, {"prompt": "a", "answer": "b"}]}, r"row 4 has no 'gt' \(keys 'answer', 'prompt'\)"),
        ({VERBMEM: [CONTINUATIONS[0], "a"]}, r"row 2 is a JSON string.*Expected \{prompt, gt\}"),
        ({VERBMEM: [{"prompt": "a", "gt": 3}]}, r"row 1: gt: a valid string is needed, not a JSON number"),
        ({VERBMEM: [{"prompt": "a", "gt": None}]}, r"row 1: gt: a valid string is needed, not a JSON null"),
        ({VERBMEM: [{"prompt": " \n", "gt": "b"}]}, r"row 1: prompt: must not be blank"),
        ({VERBMEM: '[{"prompt": "\\ud800", "gt": "b"}]'}, r"row 1: prompt: has a lone surrogate"),
        ({VERBMEM: DEEP}, r"nested too deeply"),
        ({VERBMEM: "[" + "9" * 5000 + "]"}, r"not valid JSON"),
        ({"privleak/forget.json": ["a", 5]}, r"row 2 is a JSON number.*a string"),
        ({"forget.jsonl": "\n \n"}, r"no rows"),
        ({"forget.jsonl": '{"text": "a"}\n{"text": '}, r"line 2: the file is not valid JSON: .* at column 10"),
        ({"forget.jsonl": '{"text": "a"}\n\n{"prompt": "a"}'}, r"line 3 has no 'text'"),
        ({"forget.jsonl": '{"words": "a"}'}, r"line 1: keys 'words'.*\{text\}"),
        ({"forget.jsonl": "[1]"}, r"row 1: number"),
        ({"forget.jsonl": "[1]\n[2]"}, r"line 1: list"),
        ({"forget.jsonl": DEEP}, r"line 1: .*nested too deeply"),
        (
            {VERBMEM: CONTINUATIONS, "forget.jsonl": '{"prompt": "a", "completion": "b"}'},
            r"given twice: .*forget\.jsonl",
        ),
        ({"privleak/retain.json": TEXTS, "privleak/retain2.json": TEXTS}, r"given twice: .*retain2"),
        ({"raw/forget.txt": "only for training"}, r"nothing to measure.*verbmem/forget\.json"),
        ({"verbmem/forget.json/x": "a folder in a file's place"}, r"cannot read the data"),
    ],
)
def test_bad_data_is_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=r"(?s)" + message) as caught:
        read_data(write(tmp_path, files))
    assert caught.value.exit_code == 3


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        read_data(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="expects a folder, got a file"):
        read_data(write(tmp_path, {"file": "x"}) / "file")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
rows = st.fixed_dictionaries({}, optional={"prompt": json_values, "gt": json_values, "text": json_values})


@given(content=st.binary() | (json_values | st.lists(rows)).map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("name", ["verbmem/forget.json", "privleak/forget.json", "forget.jsonl"])
def test_any_content_is_read_or_refused_cleanly(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    try:
        data = read_data(write(tmp_path_factory.mktemp("data"), {name: content}))
    except QuailError as error:
        assert error.exit_code == 3  # noqa: PT017 - any of its kinds, or none
    else:
        assert sum(data.samples.values()) > 0


@given(
    texts=st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)).filter(lambda t: t[0].strip() and t[1].strip()))
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    if not texts:
        return
    muse = [{"prompt": prompt, "gt": truth} for prompt, truth in texts]
    lines = jsonl([{"prompt": prompt, "completion": truth} for prompt, truth in texts])
    expected = tuple(Continuation(prompt=prompt, truth=truth) for prompt, truth in texts)
    for files in ({VERBMEM: muse}, {"forget.jsonl": lines}):
        assert read_data(write(tmp_path_factory.mktemp("data"), files)).continuations["forget"] == expected


def test_every_metric_is_known_by_its_name() -> None:
    names = [metric.name for metric in known_metrics()]
    assert [metric_named(name).name for name in names] == names
    assert [metric.generates for metric in known_metrics()] == sorted(metric.generates for metric in known_metrics())


@pytest.mark.real_data
def test_muse_news_is_read() -> None:
    folder = SHARED_DATA / "muse-news"
    data: ForgettingData = read_data(folder)
    assert data.samples == {
        "nll_forget": 100,
        "nll_retain": 100,
        **membership(200),
        **truth_scores("verbmem", 100),
        **truth_scores("knowmem", 100),
        "knowmem_forget": 100,
        "knowmem_retain": 100,
        "verbmem_forget": 100,
    }
    assert len(data.questions["forget"].examples) == len(data.questions["retain"].examples) == 10
    assert "verbmem_retain" in data.skipped
