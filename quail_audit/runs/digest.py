"""The digest of a report over itself: SHA-256 of the report as canonical JSON, without the digest's own field.

Canonical means, in the manner of RFC 8785: no blanks, keys sorted by code point, every character outside of ASCII
escaped, numbers as Python writes them. docs/integrity.md says how to compute it elsewhere. It tells two reports apart
and finds a damaged one; against whoever can write a new digest only a signature helps (signing.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quail_audit.schema.report import Report

FIELD = "digest"


def canonical_json(document: object) -> str:
    """A JSON document in its one canonical form. ASCII only.

    Args:
        document: as json.loads gives it.

    Raises:
        ValueError: a number is infinite or none, which JSON has not.
        RecursionError: it is nested too deeply.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(document: Mapping[str, object]) -> str:
    """The digest of a report, as the document says it or would say it, in hexadecimal. Raises as canonical."""
    rest = {key: value for key, value in document.items() if key != FIELD}
    return hashlib.sha256(canonical_json(rest).encode("ascii")).hexdigest()


def with_digest(report: Report) -> Report:
    """The report with its digest."""
    return report.model_copy(update={FIELD: digest_of(json.loads(report.model_dump_json()))})
