"""A report's digest over itself, against a plain implementation of the canonical form, and in what Quail writes."""

import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from quail_audit.reports.formats import FORMATS
from quail_audit.reports.text import audit
from quail_audit.runs.digest import canonical_json, digest_of
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.names import REPORT
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import FilesHashed
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import FileHash
from tests.support.places import ROOT
from tests.support.small_run import REQUEST, events, report_of

FILES = FilesHashed(
    files=(
        FileHash(role="original", path="model.safetensors", bytes=4_000_000, sha256="0f" * 32),
        FileHash(role="data", path="verbmem/<b>.json", bytes=12, sha256="f0" * 32),
    )
)


def with_files() -> list[Event]:
    *measured, verdict, end = events()
    return [*measured, FILES, verdict, end]


def plainly(document: object) -> str:
    """The canonical form, character by character."""
    if isinstance(document, dict):
        return "{" + ",".join(f"{plainly(key)}:{plainly(document[key])}" for key in sorted(document)) + "}"
    if isinstance(document, list):
        return "[" + ",".join(map(plainly, document)) + "]"
    if isinstance(document, str):
        return '"' + "".join(map(escaped, document)) + '"'
    if document is None or isinstance(document, bool):
        return {None: "null", True: "true", False: "false"}[document]
    return repr(document)


def escaped(character: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
    if character in short:
        return short[character]
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


json_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(json_documents)
def test_the_canonical_form_is_as_it_is_described(document: object) -> None:
    found = canonical_json(document)
    assert found == plainly(document)
    assert json.loads(found) == document
    assert found.isascii()


@given(json_documents)
def test_writing_a_document_in_another_way_does_not_change_its_form(document: object) -> None:
    for written in (json.dumps(document, indent=3), json.dumps(document, ensure_ascii=False)):
        assert canonical_json(json.loads(written)) == canonical_json(document)


def test_the_page_computes_the_same_digest(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "integrity.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(run_folder)
    for said in ("True\n", "False\n"):
        exec(code)  # noqa: S102 - our own page
        assert capsys.readouterr().out == said
        path = Path(REPORT)
        path.write_text(path.read_text().replace("a note on the run", "ä nöte on the run"))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_form(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": number})


def test_the_digest_is_of_all_but_itself() -> None:
    document = json.loads(report_of(*with_files()).model_dump_json())
    found = digest_of(document)
    del document["digest"]
    assert found == hashlib.sha256(plainly(document).encode()).hexdigest()
    assert digest_of({**document, "digest": "any"}) == found
    document["notes"].append("one more")
    assert digest_of(document) != found


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    with new_run(tmp_path / "run", REQUEST) as folder:
        list(record(iter(with_files()), folder))
    return folder


def test_a_runs_report_has_its_digest_and_its_files(run_folder: Path) -> None:
    document = json.loads((run_folder / REPORT).read_text())
    assert document["digest"] == digest_of(document)
    assert [each["sha256"] for each in document["files"]] == ["0f" * 32, "f0" * 32]
    assert read_report(run_folder / REPORT) == read_report(run_folder)


def test_every_face_for_people_shows_the_digest_and_that_files_were_hashed(run_folder: Path) -> None:
    report = read_report(run_folder)
    assert report.digest is not None
    stream = io.StringIO()
    audit.show(report, Console(file=stream, width=120))
    page = "".join(FORMATS["html"](report, None))
    for shown in (stream.getvalue(), "".join(FORMATS["markdown"](report, None)), page):
        assert report.digest in shown
    assert "2 files read, 4 MB" in stream.getvalue()
    assert "Files read: 2, 4 MB" in page
    assert "f0" * 32 in page
    assert "verbmem/&lt;b&gt;.json" in page
