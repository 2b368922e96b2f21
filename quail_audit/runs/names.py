"""Names of a run's folder and of the files in it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

EVENTS = "events.jsonl"  # of a run


RUNS_FOLDER = Path(".quail") / "runs"  # where runs go that are not told where


REQUEST = "request.json"


REPORT = "report.json"


JOURNAL = "journal.jsonl"  # of an audit that is not finished: journal.py


LOCK = "writer.lock"


WRITER = "writer.id"


def new_run_id() -> str:
    """Sorts by time; unique where two start in the same second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
