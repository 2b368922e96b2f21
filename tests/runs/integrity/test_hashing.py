"""Hashing files beside other work: the hashes against other readers, files that change, and stopping."""

import hashlib
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quail_audit.core.errors import BadInputError
from quail_audit.core.paths import is_inside
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.runs.integrity.hashing import PIECE_BYTES, Hashing, find_file, hash_file
from quail_audit.schema.events.audit import FilesAwaited
from quail_audit.schema.figures import FileHash
from quail_audit.schema.layout import DATA_NAMES, data_files


def hashes(hashing: Hashing) -> tuple[FileHash, ...]:
    waiting = hashing.wait()
    while True:
        try:
            next(waiting)
        except StopIteration as end:
            found: tuple[FileHash, ...] = end.value
            return found


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    sizes = {"empty": 0, "small": 5, "a-piece": PIECE_BYTES, "odd": 3 * PIECE_BYTES + 7}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    return [tmp_path / name for name in sizes]


def test_the_hashes_are_those_of_the_files_in_their_order(files: list[Path]) -> None:
    roles = ("original", "unlearned", "unlearned", "data")
    with Hashing() as hashing:
        hashing.start([find_file(role, file, file.name) for role, file in zip(roles, files, strict=True)])
        found = hashes(hashing)
    assert [(each.role, each.path) for each in found] == [
        (role, file.name) for role, file in zip(roles, files, strict=True)
    ]
    for each, file in zip(found, files, strict=True):
        assert each.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert each.bytes == file.stat().st_size


def test_a_file_that_changes_meanwhile_is_refused(files: list[Path]) -> None:
    places = [find_file("original", file, file.name) for file in files]
    with Hashing() as hashing:
        hashing.start(places)
        assert hashing._done.wait(30)
        files[-1].write_bytes(os.urandom(files[-1].stat().st_size))
        os.utime(files[-1], ns=(1, 1))  # whatever the clock's steps
        with pytest.raises(BadInputError, match="changed while") as caught:
            hashes(hashing)
    assert caught.value.where == str(files[-1])


@pytest.mark.parametrize("size", [PIECE_BYTES, 5 * PIECE_BYTES])
def test_a_file_that_has_grown_or_shrunk_before_its_turn_is_refused(size: int, files: list[Path]) -> None:
    place = find_file("original", files[-1], "odd")
    os.truncate(files[-1], size)
    with Hashing() as hashing:
        hashing.start([place])
        with pytest.raises(BadInputError, match="changed while"):
            hashes(hashing)


def test_a_file_that_was_only_touched_is_not_refused(files: list[Path]) -> None:
    with Hashing() as hashing:
        hashing.start([find_file("original", file, file.name) for file in files])
        assert hashing._done.wait(30)
        os.utime(files[-1], ns=(1, 1))
        assert len(hashes(hashing)) == len(files)


def test_a_file_that_is_gone_is_bad_input(files: list[Path]) -> None:
    place = find_file("original", files[-1], "odd")
    files[-1].unlink()
    with Hashing() as hashing:
        hashing.start([place])
        with pytest.raises(BadInputError, match="cannot be read"):
            hashes(hashing)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """More than could be hashed in a test, and nothing on the disk."""
    file = tmp_path / "endless"
    file.touch()
    os.truncate(file, 1 << 40)
    return file


def test_leaving_stops_it_in_the_middle_of_a_file(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quail_audit.runs.integrity.hashing.SECONDS_BETWEEN_EVENTS", 0.1)
    before = set(threading.enumerate())
    with Hashing() as hashing:
        hashing.start([find_file("original", endless, "endless")])
        waiting = hashing.wait()
        awaited = next(waiting)
        assert isinstance(awaited, FilesAwaited)
        assert 0 < awaited.done_bytes < awaited.total_bytes == 1 << 40
    assert set(threading.enumerate()) == before


def test_no_more_than_a_piece_is_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.touch()
    os.truncate(file, 64 * PIECE_BYTES)
    tracemalloc.start()
    try:
        hash_file(file, lambda _: True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * PIECE_BYTES


def test_a_file_is_not_read_beyond_what_it_may_hold(endless: Path) -> None:
    seen: list[int] = []

    def goes_on(count: int) -> bool:
        seen.append(count)
        return True

    assert hash_file(endless, goes_on, most_bytes=2 * PIECE_BYTES) is None
    assert sum(seen) == 2 * PIECE_BYTES


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
@pytest.mark.timeout(20)
def test_what_is_no_file_is_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"is not a regular file|Is a directory"):
            hash_file(path, lambda _: True)
        with pytest.raises(BadInputError, match="not a regular file"):
            find_file("data", path, "x")


@contextmanager
def opened_under(folder: Path) -> Iterator[set[str]]:
    """The files that Python opens in a folder."""
    found: set[str] = set()
    watching = [True]

    def hook(event: str, arguments: tuple[object, ...]) -> None:  # stays for the life of the process
        if watching[0] and event == "open" and isinstance(arguments[0], str | Path):
            path = Path(arguments[0])
            if path.is_relative_to(folder):
                found.add(path.relative_to(folder).as_posix())

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        watching[0] = False


def test_the_files_of_a_data_folder_are_those_that_are_read(tmp_path: Path) -> None:
    """Every name that either side could think of lies there once, alone, as no two may be there at once."""
    templates = ("{}.jsonl", "{}.csv", "{}.json", "verbmem/{}.json", "knowmem/{}_qa.json", "privleak/{}.json")
    rows = {
        "{}.jsonl": '{"text": "a"}\n',
        "{}.csv": "text,label\na,1\n",
        "verbmem/{}.json": '[{"prompt": "a", "gt": "b"}]',
        "privleak/{}.json": '["a"]',
    }
    questions = '[{"question": "a", "answer": "b"}]'
    read = 0
    for number, template in enumerate(templates):
        for part in ("test", *(alias for aliases in DATA_NAMES.values() for alias in aliases)):
            folder = tmp_path / f"{number}-{part}"
            named = [template.format(part)]
            if template.startswith("knowmem"):
                named.append(f"knowmem/{part}_qa_icl.json")
            for name in (*named, "raw/retain.txt", "notes.json"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(rows.get(template, questions))
            with opened_under(folder) as opened:
                read_folder(folder)
            assert set(data_files(folder)) == opened
            read += len(opened)
    assert read >= 20


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "/etc/passwd",
        "../a",
        "a/../../b",
        "C:\\a",
        "\\\\host\\a",
        "a\\..\\..\\b",
        "a\x1b[2J",
        "a\nb",
        "a" * 300,
    ],
)
def test_names_that_lead_out_are_known(name: str) -> None:
    assert not is_inside(name)


@pytest.mark.parametrize("name", ["model.safetensors", "verbmem/forget.json", "..a", "ü.json"])
def test_names_that_stay_are_known(name: str) -> None:
    assert is_inside(name)
