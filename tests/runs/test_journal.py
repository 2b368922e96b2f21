"""What a stopped audit keeps: entries by key, bit for bit, whatever moment it was killed at."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError
from quail_audit.runs.journal import Journal, KeptArray, collecting, open_journal
from quail_audit.schema.figures import Score

ONE, TWO = (Score(mean=mean, low=0.1 + 0.2, high=1e-310, samples=3) for mean in (1.0, 2.0))


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.jsonl") as journal:
        assert journal.find(Score, "arm", "a") is None
        journal.keep(ONE, "arm", "a")
        journal.keep(TWO, "arm", "b\n\x1b[0m")
        journal.keep(TWO, "arm", "a")
        assert (journal.find(Score, "arm", "a"), journal.find(Score, "arm", "b\n\x1b[0m")) == (ONE, TWO)
    with open_journal(tmp_path / "journal.jsonl") as journal:
        assert (journal.find(Score, "arm", "a"), journal.find(Score, "arm", "b\n\x1b[0m")) == (ONE, TWO)
        assert journal.find(Score, "arm") is None


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal()
    journal.keep(ONE, "arm")
    assert journal.find(Score, "arm") is None


def test_a_line_that_was_cut_off_is_dropped_wherever(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with open_journal(path) as journal:
        journal.keep(ONE, "a")
        first = path.stat().st_size
        journal.keep(TWO, "b")
    whole = path.read_bytes()
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        with open_journal(path) as journal:
            assert journal.find(Score, "a") == ONE
            assert journal.find(Score, "b") is None
            journal.keep(TWO, "b")
        assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{", "[]", '{"entry": {}}', '{"key": "a", "entry": {}}', '{"key": [1]}', "\udc80"])
def test_a_line_that_is_no_entry_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"key": ["a"], "entry": {{}}}}\n{line}\n', errors="surrogateescape")
    with pytest.raises(BadInputError, match="cannot be read") as caught, open_journal(path):
        pass
    assert caught.value.where == f"{path}, line 2"


def test_an_entry_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": ["a"], "entry": {"mean": "x"}}\n')
    with open_journal(path) as journal, pytest.raises(BadInputError, match="mean") as caught:
        journal.find(Score, "a")
    assert caught.value.where == str(path)


@given(st.lists(st.floats(width=32), max_size=9), st.sampled_from(["float32", "float64"]))
def test_an_array_comes_back_bit_for_bit(values: list[float], dtype: str) -> None:
    array = np.array(values, dtype)
    again = KeptArray.model_validate_json(KeptArray.of(array).model_dump_json()).array()
    assert again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()


def test_an_array_keeps_its_shape() -> None:
    array = np.array([[1.0, math.nan], [-0.0, math.inf]])[:, ::-1]
    assert KeptArray.of(array).array().tobytes() == np.ascontiguousarray(array).tobytes()
    assert KeptArray.of(array).array().shape == (2, 2)


@pytest.mark.parametrize(("shape", "data"), [((3,), "AAAAAA=="), ((1,), "AA"), ((1,), "?")])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...], data: str) -> None:
    with pytest.raises(BadInputError):
        KeptArray(dtype="float32", shape=shape, base64=data).array()


def test_events_are_collected_as_they_pass() -> None:
    def events():
        yield 1
        yield "a"
        yield 2
        return "end"

    collected: list[int] = []
    ends: list[str] = []

    def passed():
        ends.append((yield from collecting(events(), (int,), collected)))

    assert list(passed()) == [1, "a", 2]
    assert (collected, ends) == ([1, 2], ["end"])
