"""Reports as files: the JSON Schema against the model and real reports, and reports of every Quail so far."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError
from quail_audit.runs.folder import read_report
from quail_audit.runs.report_file import make_schema, read_report_file, read_schema
from quail_audit.schema.report import SCHEMA_VERSION, Report
from tests.support import made_runs
from tests.support.places import GOLDEN
from tests.support.small_run import events, report_of

OLD = sorted((GOLDEN / "reports").glob("*.json"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads(read_schema()))


def is_kept(old: Any, new: Any) -> bool:
    """Whether everything that an old document says is said by the new one, which may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and is_kept(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(is_kept, old, new))
    return bool(old == new)


def test_the_schema_in_the_package_is_that_of_the_model() -> None:
    """Write it anew with: python -c "import quail_audit.runs.report_file as r; print(r.make_schema(), end='')" """
    assert read_schema() == make_schema()
    jsonschema.Draft202012Validator.check_schema(json.loads(read_schema()))


@pytest.mark.parametrize(
    "report",
    [
        report_of(*events()),
        report_of(next(events())),
        report_of(*made_runs.events(schemes=made_runs.FORMATS[:3], samples=1, outcome="mixed")),
    ],
    ids=["whole", "stopped", "several formats"],
)
def test_reports_hold_to_the_schema(report: Report) -> None:
    VALIDATOR.validate(json.loads(report.model_dump_json()))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 3),
        (("verdict", "outcome"), "maybe"),
        (("schemes", "nf4", "layers", 0, "overlap"), 1.5),
        (("schemes", "nf4", "layers", 0, "weights"), None),
        (("started",), 7),
    ],
)
def test_what_is_no_report_does_not_hold_to_the_schema(place: tuple[Any, ...], value: object) -> None:
    document = json.loads(report_of(*events()).model_dump_json())
    VALIDATOR.validate(document)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    assert not VALIDATOR.is_valid(document)


def test_a_report_without_a_version_is_none() -> None:
    document = json.loads(report_of(*events()).model_dump_json())
    del document["schema_version"]
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_reports_of_every_quail_are_read_whole(path: Path) -> None:
    document = json.loads(path.read_text())
    VALIDATOR.validate(document)
    report = read_report_file(path)
    assert is_kept(as_read(document), json.loads(report.model_dump_json()))
    assert len(report.schemes["nf4"].layers) == 14


def as_read(document: dict[str, Any]) -> dict[str, Any]:
    """A report of schema version 1 as it is read: what came back is known, and a limit has another name."""
    for scheme in document["schemes"].values():
        for metric, recovery in scheme.pop("recovery").items():
            known = None
            if recovery["percent"] is not None:
                known = {end: recovery[end] for end in ("percent", "low", "high")}
            outcome = {"recovered": "comes back", "held": "holds"}.get(recovery["outcome"], recovery["outcome"])
            scheme.setdefault("knowledge", {})[metric] = {"outcome": outcome, "known": known}
    if document.get("policy"):
        limits = document["policy"]["effective"]["limits"]
        limits["max_known_percent"] = limits.pop("max_recovery_percent")
    return document


def test_there_are_old_reports() -> None:
    assert len(OLD) >= 4


def test_the_events_of_the_first_quail_fold_to_what_it_reported() -> None:
    document = json.loads((GOLDEN / "reports" / "cc0961e.json").read_text())
    document["schema_version"] = SCHEMA_VERSION
    assert is_kept(as_read(document), json.loads(read_report(GOLDEN / "runs" / "cc0961e").model_dump_json()))


def test_what_a_newer_quail_added_is_left_out(tmp_path: Path) -> None:
    document = json.loads(report_of(*events()).model_dump_json())
    expected = Report.model_validate(document)
    document["brand_new"] = 1
    document["schemes"]["nf4"]["layers"][0]["brand_new"] = [1]
    VALIDATOR.validate(document)
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert read_report(tmp_path / "report.json") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        ('{"schema_version": true}', "no schema_version"),
        ('{"schema_version": "1"}', "no schema_version"),
        ('{"schema_version": 3}', "schema version 3"),
        ('{"schema_version": 1}', "quail_version: Field required"),
        ('{"schema_version": 1, "schemes": {"nf4": {"layers": 1}}}', "not a report"),
        ("\ud800", "not valid JSON"),
    ],
)
def test_what_is_no_report_is_refused_in_plain_words(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(BadInputError, match=message) as caught:
        read_report_file(path)
    assert caught.value.where == str(path)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report_of(*events()).model_dump_json().replace('"overlap":1.0', '"overlap":NaN'))
    with pytest.raises(BadInputError):
        read_report_file(path)


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot read"):
        read_report_file(tmp_path / "report.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_report_that_was_tampered_with_is_a_report_or_bad_input(data: st.DataObject, tmp_path: Path) -> None:
    """Any value in any place, and any bytes in its text."""
    document = json.loads(report_of(*events()).model_dump_json())
    parent, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(parent[key], dict | list) and parent[key] and data.draw(st.booleans()):
        parent = parent[key]
        key = data.draw(st.sampled_from(range(len(parent)) if isinstance(parent, list) else sorted(parent)))
    parent[key] = data.draw(VALUES)
    text = json.dumps(document).encode()
    start = data.draw(st.integers(0, len(text)))
    text = text[:start] + data.draw(st.binary(max_size=3)) + text[start:]
    (tmp_path / "report.json").write_bytes(text)
    with suppress(BadInputError):
        read_report_file(tmp_path / "report.json")
