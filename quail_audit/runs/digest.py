"""Compute a report's digest: SHA-256 of its canonical JSON without the `digest` field.

Canonical is close to RFC 8785: no blanks, keys sorted by code point, every non-ASCII character escaped, numbers as
Python writes them. docs/integrity.md says how to compute it elsewhere. The digest finds damage; against forgery only a
signature helps (integrity/signatures.py).
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
    """Return a JSON document in its canonical form. ASCII only.

    Args:
        document: as json.loads returns it.

    Raises:
        ValueError: a number is infinite or NaN, which JSON lacks.
        RecursionError: it is nested too deeply.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(document: Mapping[str, object]) -> str:
    """Return the digest of a report's document, in hexadecimal. Raises as canonical_json does."""
    rest = {key: value for key, value in document.items() if key != FIELD}
    return hashlib.sha256(canonical_json(rest).encode("ascii")).hexdigest()


def add_digest(report: Report) -> Report:
    """Return the report with its digest."""
    return report.model_copy(update={FIELD: digest_of(json.loads(report.model_dump_json()))})
