"""Files that are there whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.writing import new_file, whole_file, write_whole


def test_it_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with whole_file(path) as file:
        file.write("new\r\n\udcff")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == b"new\r\n\\udcff"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_what_fails_in_between_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as file:
        file.write("new")
        raise error
    assert path.read_text() == "old"
    with pytest.raises(error), new_file(tmp_path / "policy") as file:
        file.write("new")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    write_whole(tmp_path / "link", b"\x00\xff")
    assert (tmp_path / "link").is_symlink()
    assert target.read_bytes() == b"\x00\xff"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", "through")
    reader.join(timeout=10)
    assert seen == ["through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_named_with_the_file() -> None:
    with pytest.raises(EnvironmentProblemError, match="/dev/full: the disk is full"):
        write_whole(Path("/dev/full"), "x")
    with (
        pytest.raises(EnvironmentProblemError, match="/dev/full: the disk is full"),
        whole_file(Path("/dev/full")) as file,
    ):
        file.write("x" * 100_000)


def test_what_cannot_be_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "folder", "No such file or directory"),
        (tmp_path / "a\x00b", "null"),
        (tmp_path / "loop", "loop|symbolic links"),
    ):
        with pytest.raises(EnvironmentProblemError, match=why), whole_file(path):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_file_that_is_not_to_be_written_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for anyone but root, who may write everything
    with pytest.raises(EnvironmentProblemError, match="Permission denied"):
        write_whole(tmp_path / "kept", "new")
    assert (tmp_path / "kept").read_text() == "old"


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    with pytest.raises(FileExistsError), new_file(tmp_path / "kept"):
        raise AssertionError
    with new_file(tmp_path / "new") as file:
        file.write("new")
    assert (tmp_path / "new").read_text() == "new"
    assert (tmp_path / "kept").read_text() == "old"
