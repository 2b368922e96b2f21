"""Name a run's folder and the files in it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

EVENTS = "events.jsonl"  # of a run
RUNS_FOLDER = Path(".quail") / "runs"  # where runs go by default
REQUEST = "request.json"
REPORT = "report.json"
JOURNAL = "journal.jsonl"  # of an unfinished audit: journal.py
LOCK = "writer.lock"
WRITER = "writer.id"


def new_run_id() -> str:
    """Return an id that sorts by time, unique even within a second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
