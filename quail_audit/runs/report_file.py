"""Read and check an untrusted report.json; write its JSON Schema.

There has been one schema version, and fields are only ever added within a version: a field that an older Quail did not
write gets its default, a field that a newer one added is ignored. folder.py reads a run's folder.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from quail_audit.core.errors import BadInputError
from quail_audit.core.reading import read_bounded
from quail_audit.core.values import first_problem
from quail_audit.schema.report import SCHEMA_VERSION, Report

LARGEST_BYTES = 256 * 2**20  # a report of ten thousand layers at twenty schemes has a third of this


class _Schema(GenerateJsonSchema):
    """Allows additional fields, as a schema version may gain fields."""

    schema_dialect = "https://json-schema.org/draft/2020-12/schema"

    def generate(self, schema: Any, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
        made = super().generate(schema, mode)
        for model in (made, *made["$defs"].values()):
            if model.get("additionalProperties") is False:
                del model["additionalProperties"]
        made["required"] = ["schema_version", *made["required"]]  # it has a default, but every Quail writes it
        head = {"$schema": self.schema_dialect, "$id": f"urn:quail-audit:report:{SCHEMA_VERSION}"}
        return head | made | {"title": "report.json of quail audit"}


def make_schema() -> str:
    """Generate the JSON Schema of report.json, which the package holds as report.schema.json."""
    return json.dumps(Report.model_json_schema(schema_generator=_Schema), indent=2) + "\n"


def read_schema() -> str:
    """Return the JSON Schema of report.json."""
    return files("quail_audit.schema").joinpath("report.schema.json").read_text(encoding="utf-8")


def read_report_file(path: Path) -> Report:
    """Return the report in a file.

    Raises:
        BadInputError: it cannot be read, is not a report, or has a newer schema version.
    """
    return _parse_report(read_bounded(path, "the report", most_bytes=LARGEST_BYTES), path)


def read_with_document(path: Path) -> tuple[Report, dict[str, Any]]:
    """Return the parsed report and its raw JSON; the digest covers the raw JSON.

    Raises:
        BadInputError: as read_report_file; or a key appears twice, or a number is not JSON.
    """
    written = read_bounded(path, "the report", most_bytes=LARGEST_BYTES)
    report = _parse_report(written, path)
    try:
        document = json.loads(written, object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"not valid JSON: {error}", where=str(path), mend="Give a report.json of quail audit"
        ) from error
    return report, document


def _parse_report(document: bytes, path: Path) -> Report:
    version = _schema_version_of(document, path)
    if version > SCHEMA_VERSION:
        raise BadInputError(
            f"a report of schema version {version}; this Quail reads versions 1 to {SCHEMA_VERSION}",
            where=str(path),
            mend="Install a newer quail-audit",
        )
    try:
        return Report.model_validate_json(document, extra="ignore")
    except ValidationError as error:
        place, problem = first_problem(error)
        raise BadInputError(f"not a report of quail audit: {place}: {problem}", where=str(path)) from error


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that appears twice, as readers differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _schema_version_of(document: bytes, path: Path) -> int:
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"not valid JSON: {error}", where=str(path), mend="Give a report.json of quail audit"
        ) from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadInputError(
            "not a report of quail audit: it has no schema_version", where=str(path), mend="Give a report.json"
        )
    return version
