import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.untrusted import printable
from quail_audit.tui.settings import (
    FILE,
    MOST_RECENT_RUNS,
    Settings,
    config_folder,
    load_settings,
    save_settings,
    user_themes_folder,
)

SOME = Settings(
    original="org/model@main",
    unlearned="/models/ünlearned",
    retrain="",
    data="data",
    schemes=("nf4", "fp4"),
    device="cuda:1",
    policy="quail.toml",
    theme="quail-light",
    heat_map="overlap",
    recent_runs=("/runs/b", "/runs/a"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "config" / "quail"
    monkeypatch.setenv("QUAIL_CONFIG_DIR", str(place))
    return place


def put(folder: Path, data: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_the_first_start_has_defaults_and_no_problem(folder: Path) -> None:
    assert load_settings() == (Settings(), None)
    assert not folder.exists()


def test_what_is_saved_is_loaded(folder: Path) -> None:
    assert save_settings(SOME) is None
    assert load_settings() == (SOME, None)
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert json.loads((folder / FILE).read_text())["theme"] == "quail-light"  # for people, too


def test_the_folder_is_the_platforms_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUAIL_CONFIG_DIR", str(tmp_path))
    assert config_folder() == tmp_path
    assert user_themes_folder() == tmp_path / "themes"
    monkeypatch.setenv("QUAIL_CONFIG_DIR", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert config_folder() == tmp_path / "quail"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        (b"\xff\xfe", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"original": "' + "a" * 5000 + '"}', "original: String should have at most 4096"),
        ('{"original": "a\\u0000"}', "null character"),
        ('{"original": "\\ud800"}', "JSON"),
        ('{"recent_runs": ["relative"]}', "recent_runs.0: Value error, not an absolute path"),
        (json.dumps({"recent_runs": ["/a"] * 21}), "recent_runs: Tuple should have at most 20"),
        ('{"heat_map": "colour"}', "heat_map"),
        ('{"heat_map": NaN}', "heat_map"),
        ('{"themes": "x"}', "themes: Extra inputs"),
        ('{"\\u001b[2J": 1}', "\\x1b[2J"),
        (" " * 300_000, "over 256 KiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_broken_file_gives_the_defaults_and_says_why(folder: Path, data: str | bytes, said: str) -> None:
    path = put(folder, data)
    settings, problem = load_settings()
    assert settings == Settings()
    assert problem is not None
    assert said in problem
    assert str(path) in problem
    assert printable(problem) == problem
    assert len(problem) < 500


@given(st.binary(max_size=300))
def test_any_bytes_give_settings(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("config")
        patch.setenv("QUAIL_CONFIG_DIR", str(folder))
        put(folder, data)
        assert isinstance(load_settings()[0], Settings)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.mkfifo(folder / FILE)
    assert load_settings()[1] is not None
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    assert load_settings()[1] is not None
    assert "cannot save" in (save_settings(SOME) or "")
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_folder_that_cannot_be_is_a_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.mkdir()
    folder.write_text("a file in the folder's place")
    assert "cannot save" in (save_settings(SOME) or "")
    assert load_settings()[0] == Settings()
    # The environment itself refuses a null character, so it comes from here.
    monkeypatch.setattr("quail_audit.tui.settings.config_folder", lambda: Path("a\0b"))
    assert save_settings(SOME) is not None
    assert load_settings()[0] == Settings()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_a_message(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    assert "Permission denied" in (save_settings(SOME) or "")


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_keeps_the_former_settings_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    assert save_settings(SOME) is None

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        assert "the disk is full" in (save_settings(Settings()) or "")
    assert load_settings() == (SOME, None)
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_linked_file_stays_a_link(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (folder / FILE).symlink_to(tmp_path / "kept" / "quail.json")
    assert save_settings(SOME) is None
    assert (folder / FILE).is_symlink()
    assert load_settings() == (SOME, None)
    (folder / FILE).unlink()
    (folder / FILE).symlink_to(folder / FILE)
    assert save_settings(SOME) is not None
    assert load_settings()[0] == Settings()


def test_two_apps_that_save_at_once_never_leave_a_torn_file(folder: Path) -> None:
    assert save_settings(SOME) is None
    code = """
import sys
from quail_audit.tui.settings import Settings, save_settings
for turn in range(60):
    assert save_settings(Settings(original=sys.argv[1] * (turn * 60 + 1))) is None
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        settings, problem = load_settings()
        assert problem is None
        assert len(set(settings.original)) == 1 or settings == SOME
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_recent_runs_are_newest_first_once_each_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    for number in range(MOST_RECENT_RUNS + 5):
        settings = settings.with_run(f"runs/{number:02}")
    assert len(settings.recent_runs) == MOST_RECENT_RUNS
    assert settings.recent_runs[0] == str(tmp_path / "runs" / "24")
    assert all(newer > older for newer, older in pairwise(settings.recent_runs))
    again = settings.with_run(tmp_path / "runs" / "10")
    assert again.recent_runs[0].endswith("10")
    assert len(set(again.recent_runs)) == MOST_RECENT_RUNS


def test_what_cannot_be_kept_changes_nothing() -> None:
    assert SOME.with_changes(original="new", heat_map="survival").original == "new"
    for fields in ({"original": "a\udc80"}, {"original": "a\0"}, {"heat_map": "no"}, {"theme": ""}):
        assert SOME.with_changes(**fields) == SOME
    assert SOME.with_run("/runs/\udc80") == SOME
    with pytest.raises(TypeError, match="no such settings: orginal"):
        SOME.with_changes(orginal="x")
