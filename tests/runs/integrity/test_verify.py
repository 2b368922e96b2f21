"""Whether anything changed since: runs whose files are spoilt one by one, hostile reports, and the command."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quail_audit.cli.progress import reading
from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.reading import read_bounded
from quail_audit.reports.text import verification
from quail_audit.runs.digest import digest_of
from quail_audit.runs.folder import new_run
from quail_audit.runs.integrity.checks import Verification
from quail_audit.runs.integrity.verify import verify
from quail_audit.runs.names import EVENTS, REPORT
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import FilesHashed, RunStarted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import FileHash, FileRole
from tests.support.places import GOLDEN
from tests.support.quail_command import quail
from tests.support.small_run import REQUEST, events

WITHOUT_DIGEST = {"cc0961e", "069a970", "7f02636", "40fa698"}
CONTENTS: dict[FileRole, dict[str, str]] = {
    "original": {"model.safetensors": "weights", "config.json": "{}", "tokenizer.json": "{ }"},
    "unlearned": {
        "model-00001-of-00002.safetensors": "some weights",
        "model-00002-of-00002.safetensors": "more weights",
        "model.safetensors.index.json": "{}",
        "config.json": "{}",
    },
    "retrain": {"model.safetensors": "others", "config.json": "{}"},
    "data": {"verbmem/forget.json": "[]", "forget.jsonl": ""},
    "policy": {"quail.toml": "[limits]"},
}


@dataclass(frozen=True)
class Audited:
    """A run, and the folders that it read."""

    run: Path
    folders: Path

    def verified(self, **given: Path) -> Verification:
        return verify(self.run, given, public_key=None)  # type: ignore[arg-type]

    def standings(self, **given: Path) -> dict[str, str]:
        """What is not unchanged."""
        return {
            f"{check.role or check.part} {check.name}": check.standing
            for check in self.verified(**given).checks
            if check.standing != "unchanged"
        }


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Files as an audit might have read them, and its run. Hashed here by hashlib alone."""
    folders = tmp_path / "read"
    hashes = []
    for role, files in CONTENTS.items():
        for name, text in files.items():
            path = folders / ("." if role == "policy" else role) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            hashes.append(FileHash(role=role, path=name, bytes=len(text), sha256=sha256))
    (folders / "original" / "README.md").write_text("no audit reads this")
    (folders / "data" / "notes.json").write_text("nor this")
    named = {role: str(folders / role) for role in ("original", "unlearned", "retrain", "data")}
    request = REQUEST.model_copy(update={**named, "policy": str(folders / "quail.toml")})
    with new_run(tmp_path / "run", request) as run:
        list(record(iter(with_files(tuple(hashes), request.model_dump())), run))
    return Audited(run, folders)


def with_files(files: tuple[FileHash, ...], request: dict[str, Any]) -> list[Event]:
    first, *measured, verdict, end = events()
    assert isinstance(first, RunStarted)
    asked = type(first.request).model_validate(request)
    return [first.model_copy(update={"request": asked}), *measured, FilesHashed(files=files), verdict, end]


def test_what_is_as_it_was_is_unchanged(audited: Audited) -> None:
    found = audited.verified()
    assert found.outcome == "unchanged"
    assert found.exit_code == 0
    files = [(check.role, check.name) for check in found.checks if check.part == "file"]
    assert files == [(role, name) for role, names in CONTENTS.items() for name in names]
    assert {check.part for check in found.checks} == {"report", "events", "file"}


SPOILT: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "one byte, the same size": (
        lambda read: (read / "original" / "model.safetensors").write_text("weightS"),
        {"original model.safetensors": "changed"},
    ),
    "longer": (
        lambda read: (read / "unlearned" / "config.json").write_text("{}\n"),
        {"unlearned config.json": "changed"},
    ),
    "gone": (
        lambda read: (read / "unlearned" / "model-00002-of-00002.safetensors").unlink(),
        {"unlearned model-00002-of-00002.safetensors": "missing"},
    ),
    "a tokenizer that was not there": (
        lambda read: (read / "retrain" / "tokenizer.json").write_text("{}"),
        {"retrain tokenizer.json": "added"},
    ),
    "weights that would be read first": (
        lambda read: (read / "unlearned" / "model.safetensors").write_text("x"),
        {"unlearned model.safetensors": "added"},
    ),
    "samples that were not there": (
        lambda read: (read / "data" / "retain.jsonl").write_text("{}"),
        {"data retain.jsonl": "added"},
    ),
    "another policy": (lambda read: (read / "quail.toml").write_text("[limitS]"), {"policy quail.toml": "changed"}),
    "a folder in a file's place": (
        lambda read: ((read / "original" / "config.json").unlink(), (read / "original" / "config.json").mkdir()),
        {"original config.json": "changed"},
    ),
    "two at once": (
        lambda read: (
            (read / "data" / "verbmem" / "forget.json").unlink(),
            (read / "retrain" / "config.json").write_text("[]"),
        ),
        {"retrain config.json": "changed", "data verbmem/forget.json": "missing"},
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_changed_is_named(how: str, audited: Audited) -> None:
    spoil, expected = SPOILT[how]
    spoil(audited.folders)
    assert audited.standings() == expected
    assert audited.verified().exit_code == 1


def edit(path: Path, *, reseal: bool = False, **changes: Any) -> None:
    document = json.loads(path.read_text()) | changes
    if reseal:
        document["digest"] = digest_of(document)
    path.write_text(json.dumps(document))


def test_a_report_that_was_edited_is_told_by_its_digest_and_by_the_events(audited: Audited) -> None:
    verdict = {"outcome": "pass", "reasons": []}
    edit(audited.run / REPORT, verdict=verdict)
    assert audited.standings() == {"report report.json": "changed", "events events.jsonl": "changed"}
    edit(audited.run / REPORT, verdict=verdict, reseal=True)
    assert audited.standings() == {"events events.jsonl": "changed"}


def test_a_report_that_was_only_written_in_another_way_is_unchanged(audited: Audited) -> None:
    path = audited.run / REPORT
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    assert audited.standings() == {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('"notes": []', "a key appears twice"),
        ('"new": NaN', "NaN is not a JSON number"),
        ('"new": 1e999', "not valid JSON"),
        ('"new": ' + "[" * 100_000 + "]" * 100_000, "not valid JSON"),
    ],
    ids=["twice", "NaN", "infinite", "deep"],
)
def test_what_readers_could_take_for_different_reports_is_refused(more: str, message: str, audited: Audited) -> None:
    path = audited.run / REPORT
    path.write_text("{" + more + ", " + path.read_text().lstrip()[1:])
    with pytest.raises(BadInputError, match=message):
        audited.verified()


def test_what_is_shown_and_what_its_digest_is_of_are_the_same_bytes(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def once(path: Path, what: str, *, most_bytes: int) -> bytes:
        read.append(path)
        return read_bounded(path, what, most_bytes=most_bytes)

    monkeypatch.setattr("quail_audit.runs.report_file.read_bounded", once)
    audited.verified()
    assert read == [audited.run / REPORT]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"outcome":"fail"', '"outcome":"pass"'),
        lambda text: text.replace('"score":95.0', '"score":9x.0', 1),
        lambda text: text[: text.rindex("\n", 0, -1) + 1],
        lambda text: text + '{"type":"noted","message":"one more"}\n',
        lambda text: text + "x",
        lambda _: "",
    ],
    ids=["edited", "no event", "cut off", "goes on", "goes on a little", "empty"],
)
def test_events_that_were_changed_are_told(spoil: Callable[[str], str], audited: Audited) -> None:
    path = audited.run / EVENTS
    changed = spoil(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    assert audited.standings() == {"events events.jsonl": "changed"}


def test_a_run_without_its_report_or_its_events_lacks_them(audited: Audited) -> None:
    report = (audited.run / REPORT).read_text()
    (audited.run / REPORT).unlink()
    assert audited.standings() == {"report report.json": "missing"}
    (audited.run / REPORT).write_text(report)
    (audited.run / EVENTS).unlink()
    assert audited.standings() == {"events events.jsonl": "missing"}


def test_a_report_alone_is_enough_for_the_files(audited: Audited, tmp_path: Path) -> None:
    alone = Audited(tmp_path / "alone.json", audited.folders)
    shutil.copy(audited.run / REPORT, alone.run)
    assert alone.standings() == {}
    (audited.folders / "original" / "config.json").write_text("[]")
    assert alone.standings() == {"original config.json": "changed"}


def test_files_that_are_elsewhere_are_not_checked_until_their_place_is_named(audited: Audited, tmp_path: Path) -> None:
    for name in ("original", "data", "quail.toml"):
        (audited.folders / name).rename(tmp_path / name)
    found = audited.verified()
    assert (found.outcome, found.exit_code) == ("not all checked", 5)
    unseen = {check.role for check in found.checks if check.standing == "not checked"}
    assert unseen == {"original", "data", "policy"}
    assert all("--" in check.message for check in found.checks if check.standing == "not checked")
    given = {"original": tmp_path / "original", "data": tmp_path / "data", "policy": tmp_path / "quail.toml"}
    assert audited.standings(**given) == {}


def test_what_is_surely_changed_outweighs_what_cannot_be_checked(audited: Audited, tmp_path: Path) -> None:
    (audited.folders / "original").rename(tmp_path / "original")
    (audited.folders / "data" / "forget.jsonl").write_text("{}")
    assert audited.verified().exit_code == 1


def test_a_place_that_is_none_or_was_not_read_is_refused(audited: Audited, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        audited.verified(original=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no file of this kind"):
        audited.verified(baseline=audited.run)


def test_a_report_without_hashes_says_so(audited: Audited) -> None:
    edit(audited.run / REPORT, files=[], reseal=True)
    (audited.run / EVENTS).unlink()
    found = Audited(audited.run / REPORT, audited.folders).verified()
    assert found.exit_code == 5
    assert {check.role for check in found.checks if check.standing == "not checked"} == set(CONTENTS)


@pytest.mark.parametrize("path", sorted((GOLDEN / "reports").glob("*.json")), ids=lambda path: path.stem)
def test_reports_of_every_quail_are_verified_as_far_as_they_go(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report, *files = verify(path, {}, public_key=None).checks
    assert report.standing == ("not checked" if path.stem in WITHOUT_DIGEST else "unchanged")
    assert {(check.part, check.standing) for check in files} == {("file", "not checked")}


def test_a_run_that_an_older_quail_signed_is_still_what_was_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = GOLDEN / "runs" / "d69a0d4"
    checks = verify(run, {}, public_key=run / "key.pub.pem").checks
    standings = {(check.part, check.standing) for check in checks}
    own = {(part, "unchanged") for part in ("report", "events", "signature")}
    assert standings == {*own, ("file", "not checked")}


def hostile(audited: Audited, *files: dict[str, Any], **request: str) -> Audited:
    """A report alone that names these files."""
    document = json.loads((audited.run / REPORT).read_text())
    document["files"] = [{"role": "original", "bytes": 7, "sha256": "0" * 64} | each for each in files]
    document["request"] |= request
    document["digest"] = digest_of(document)
    path = audited.run.parent / "hostile.json"
    path.write_text(json.dumps(document))
    return Audited(path, audited.folders)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "..",
        ".",
        "",
        "\\\\host\\share",
        "C:\\x",
        "..\\secret",
        "a\x1b[2J",
        "a\x00b",
    ],
)
def test_no_path_of_a_report_leads_out_of_its_folder(
    path: str, audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    (audited.folders / "secret").write_text("secret!")
    monkeypatch.setattr("quail_audit.runs.integrity.files.hash_file", lambda *_, **__: pytest.fail("a file was read"))
    with pytest.raises(BadInputError, match="outside its folder"):
        hostile(audited, {"path": path}).verified()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
@pytest.mark.timeout(20)
def test_neither_pipes_nor_devices_nor_files_of_another_size_are_read(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = audited.folders / "original"
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "huge").touch()
    os.truncate(folder / "huge", 1 << 40)
    monkeypatch.setattr("quail_audit.runs.integrity.files.hash_file", lambda *_, **__: pytest.fail("a file was read"))
    names = ("pipe", "zero", "huge")
    found = hostile(audited, *({"path": name, "bytes": size} for name, size in zip(names, (0, 0, 7), strict=True)))
    standings = {check.name: check.standing for check in found.verified().checks if check.role == "original"}
    assert {name: standings[name] for name in names} == dict.fromkeys(names, "changed")


def test_a_file_is_named_once_only(audited: Audited) -> None:
    with pytest.raises(BadInputError, match="twice"):
        hostile(audited, {"path": "config.json"}, {"path": "config.json"}).verified()
    with pytest.raises(BadInputError, match="twice"):
        hostile(audited, {"role": "policy", "path": "a"}, {"role": "policy", "path": "b"}).verified()


@pytest.mark.parametrize("source", ["\x00", "~nobody-of-this-name/x", "x" * 5000, "org/name"])
def test_sources_that_are_no_folder_are_not_checked(source: str, audited: Audited) -> None:
    found = hostile(audited, {"path": "config.json"}, original=source).verified()
    assert [check.standing for check in found.checks if check.role == "original"] == ["not checked"]


def test_a_revision_that_is_no_commit_is_not_looked_up(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it was looked up"))
    found = hostile(audited, {"path": "config.json"}, original="org/name")
    document = json.loads(found.run.read_text())
    document["checkpoints"]["original"]["revision"] = "../../../../etc"
    found.run.write_text(json.dumps(document))
    assert [check.standing for check in found.verified().checks if check.role == "original"] == ["not checked"]


def test_a_commit_is_found_in_the_hubs_cache(audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are links to blobs, as the hub's are."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "c" * 40
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots" / commit).mkdir(parents=True)
    for name, text in CONTENTS["original"].items():
        (repository / "blobs" / name).write_text(text)
        (repository / "snapshots" / commit / name).symlink_to(Path("../../blobs") / name)
    path = audited.run.parent / "hub.json"
    document = json.loads((audited.run / REPORT).read_text())
    document["request"]["original"] = "org/name@main"
    document["checkpoints"]["original"]["revision"] = commit
    document["digest"] = digest_of(document)
    path.write_text(json.dumps(document))
    cached = Audited(path, audited.folders)
    assert cached.standings() == {}
    (repository / "blobs" / "config.json").write_text("[]")
    assert cached.standings() == {"original config.json": "changed"}


def test_the_command_shows_each_file_and_exits_as_the_page_says(audited: Audited) -> None:
    done = quail("verify", audited.run)
    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ UNCHANGED" in done.stdout
    for files in CONTENTS.values():
        for name in files:
            assert name in done.stdout
    (audited.folders / "data" / "forget.jsonl").unlink()
    done = quail("verify", audited.run, "--format", "json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["outcome"] == "changed"
    (missing,) = [check for check in document["checks"] if check["standing"] != "unchanged"]
    assert (missing["role"], missing["name"], missing["standing"]) == ("data", "forget.jsonl", "missing")


def test_the_command_says_how_far_it_is(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    with reading.show_reading(stream, "reading files") as progress:
        verify(audited.run, {}, public_key=None, progress=progress)
    lines = stream.getvalue().splitlines()
    total = sum(len(text) for files in CONTENTS.values() for text in files.values())
    assert f"reading files: {total} B of {total} B, ~0:00:00 left" in lines
    assert len(lines) == sum(bool(text) for files in CONTENTS.values() for text in files.values())


def test_names_from_a_report_do_not_act_on_the_terminal(audited: Audited) -> None:
    found = hostile(audited, {"path": "config.json"}, original="a\x1b[2J[red]b[/red]")
    stream = io.StringIO()
    verification.show(found.verified(), Console(file=stream, width=100))
    assert "\x1b" not in stream.getvalue()
    assert "[red]b[/red]" in stream.getvalue()
