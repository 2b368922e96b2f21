"""The time of day, in the one form Quail writes it."""

from datetime import UTC, datetime


def utc_now() -> str:
    """ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
