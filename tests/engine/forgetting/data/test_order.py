"""Rows are drawn at random, the fewer as the first of the more, and keep their places in the files."""

import json
from collections import Counter
from pathlib import Path

import pytest

from quail_audit.engine.forgetting.data.order import block_of, draw_rows, places_of
from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.measurable import read_data

ROWS, RETAINED, HELD = 40, 12, 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("rows")
    files: dict[str, list[object]] = {
        "verbmem/forget.json": [{"prompt": f"prompt {row}", "gt": f"truth {row}"} for row in range(ROWS)],
        "verbmem/retain.json": [{"prompt": f"kept {row}", "gt": f"truth {row}"} for row in range(RETAINED)],
        "knowmem/forget_qa.json": [{"question": f"question {row}?", "answer": f"{row}"} for row in range(ROWS - 5)],
        "knowmem/forget_qa_icl.json": [{"question": f"example {row}?", "answer": f"{row}"} for row in range(4)],
        "privleak/forget.json": [f"text {row}" for row in range(ROWS)],
        "privleak/holdout.json": [f"held {row}" for row in range(HELD)],
    }
    for name, rows in files.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(json.dumps(rows))
    return made


def prompts(data: ForgettingData) -> list[str]:
    return [row.prompt for row in data.continuations["forget"]]


def test_without_a_limit_the_order_of_the_file_stays(folder: Path) -> None:
    data = read_data(folder, seed=3)
    assert prompts(data) == [f"prompt {row}" for row in range(ROWS)]
    assert list(places_of(data, "verbmem_forget")) == list(range(ROWS))
    assert list(places_of(data, "privleak")) == list(range(ROWS + HELD))


@pytest.mark.parametrize("most", [1, 7, ROWS, ROWS + 9])
def test_fewer_rows_are_the_first_of_more(folder: Path, most: int) -> None:
    whole = read_data(folder, at_random=True, seed=3)
    assert Counter(prompts(whole)) == Counter(f"prompt {row}" for row in range(ROWS))
    assert prompts(whole) != [f"prompt {row}" for row in range(ROWS)]
    data = read_data(folder, max_samples=most, seed=3)
    assert prompts(data) == prompts(whole)[:most]
    assert data.questions["forget"].asked == whole.questions["forget"].asked[:most]
    assert [row.question for row in data.questions["forget"].examples] == [f"example {row}?" for row in range(4)]


def test_every_row_comes_as_often(folder: Path) -> None:
    draws, most = 600, 10
    data = read_data(folder)
    counts = Counter(prompt for seed in range(draws) for prompt in prompts(draw_rows(data, most, seed)))
    expected = draws * most / ROWS  # 150, of a standard deviation of 11
    assert all(abs(counts[f"prompt {row}"] - expected) < 4.5 * 11 for row in range(ROWS))
    assert sum(counts[f"prompt {row}"] for row in range(ROWS // 2)) / (draws * most) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("metric", "texts"),
    [
        ("verbmem_forget", lambda data: [f"prompt {row}" for row in range(ROWS)]),
        ("verbmem_probability_forget", lambda data: [f"prompt {row}" for row in range(ROWS)]),
        ("nll_forget", lambda data: [f"text {row}" for row in range(ROWS)]),
        ("nll_retain", lambda data: [f"kept {row}truth {row}" for row in range(RETAINED)]),
        ("privleak", lambda data: [*(f"text {row}" for row in range(ROWS)), *(f"held {row}" for row in range(HELD))]),
    ],
)
def test_a_sample_keeps_its_place_in_the_file(folder: Path, metric: str, texts: object) -> None:
    data = read_data(folder, max_samples=9, seed=1)
    asked = {
        "verbmem": prompts(data),
        "nll_forget": list(data.texts["forget"]),
        "nll_retain": [row.prompt + row.truth for row in data.continuations["retain"]],
        "privleak": [*data.texts["forget"], *data.texts["holdout"]],
    }
    shown = asked[metric if metric in asked else metric.partition("_")[0]]
    in_file = texts(data)  # type: ignore[operator]
    assert [in_file[place] for place in places_of(data, metric)] == shown


def test_blocks_are_the_draw_in_pieces(folder: Path) -> None:
    data = read_data(folder, max_samples=38, seed=2)
    blocks = [block_of(data, start, end) for start, end in ((0, 8), (8, 20), (20, 38))]
    assert [prompt for block in blocks for prompt in prompts(block)] == prompts(data)
    found = [row.answer for block in blocks for row in block.questions["forget"].asked]
    assert found == [row.answer for row in data.questions["forget"].asked]
    assert len(found) == ROWS - 5, "questions end before the last block does"
    assert [place for block in blocks for place in places_of(block, "knowmem_forget")] == [int(each) for each in found]
    assert blocks[2].continuations["retain"] == ()


def test_a_metric_of_another_package_numbers_its_samples_itself(folder: Path) -> None:
    assert not places_of(read_data(folder, max_samples=3), "likely_forget")
