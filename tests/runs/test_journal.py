"""What a stopped audit keeps: entries by key, bit for bit, whatever moment it was killed at."""

import math
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError
from quail_audit.runs.journal import Entry, Journal, KeptArray, open_journal
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.figures import Score

ONE, TWO = (Score(mean=mean, low=0.1 + 0.2, high=1e-310, samples=3) for mean in (1.0, 2.0))

SAMPLE = SampleScored(arm="original/full", metric="verbmem_forget", sample=0, done=1, total=1, score=1.0)


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


class Counted(Entry):
    """Work that is kept if it came to something."""

    events: tuple[str, ...]
    count: int

    @classmethod
    def of(cls, events: Sequence[str], result: int) -> "Counted | None":
        return cls(events=tuple(events), count=result) if result else None

    def replay(self) -> Generator[str, None, int]:
        yield from self.events
        return self.count


class Counting:
    """Says some words and samples; remembers what was asked of it."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.done: list[int] = []
        self.results: list[int] = []

    def _count(self, result: int) -> Generator[str | SampleScored, None, int]:
        self.done.append(result)
        yield "a"
        yield SAMPLE
        yield "b"
        return result

    def _once(self, key: str, result: int, *, again: bool) -> Generator[str | SampleScored, None, None]:
        self.results.append((yield from self.journal.once((key,), Counted, self._count(result), again=again)))

    def once(self, key: str, result: int, *, again: bool = False) -> list[str | SampleScored]:
        return list(self._once(key, result, again=again))


def test_work_is_done_once_and_what_it_said_is_said_again_but_for_samples(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.jsonl") as journal:
        work = Counting(journal)
        assert work.once("x", 7) == ["a", SAMPLE, "b"]
        assert work.once("x", 8) == ["a", "b"]
        assert work.once("x", 9, again=True) == ["a", SAMPLE, "b"]
        assert work.once("x", 1) == ["a", "b"]
        assert (work.done, work.results) == ([7, 9], [7, 7, 9, 7]), "the first that is kept stays"
        assert work.once("nothing", 0) == work.once("nothing", 0) == ["a", SAMPLE, "b"]


def test_work_that_fails_or_is_stopped_is_not_kept(tmp_path: Path) -> None:
    def fails() -> Generator[str, None, int]:
        yield "a"
        raise ValueError("out of luck")

    with open_journal(tmp_path / "journal.jsonl") as journal:
        with pytest.raises(ValueError, match="out of luck"):
            list(journal.once(("x",), Counted, fails()))
        stopped = journal.once(("x",), Counted, Counting(journal)._count(7))
        next(stopped)
        stopped.close()
        assert not journal.holds("x")


def test_without_a_file_work_is_done_each_time() -> None:
    work = Counting(Journal())
    work.once("x", 7)
    work.once("x", 8)
    assert work.done == work.results == [7, 8]


def test_a_journal_under_a_prefix_is_the_same_with_longer_keys(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.jsonl") as journal:
        journal.section("batch", "a").section("1").keep(ONE, "0")
        journal.keep(TWO, "0")
        assert journal.find(Score, "batch", "a", "1", "0") == journal.section("batch").find(Score, "a", "1", "0") == ONE
        assert journal.section("batch").holds("a", "1", "0")
        assert not journal.section("batch").holds("0")
