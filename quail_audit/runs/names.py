"""Names of a run's folder and of the files in it."""

from __future__ import annotations

EVENTS = "events.jsonl"  # of a run
