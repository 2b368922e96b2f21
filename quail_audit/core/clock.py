"""Write and read times in the one form that Quail uses."""

from datetime import UTC, datetime


def utc_now() -> str:
    """Return the time now: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def utc_of(moment: str) -> datetime | None:
    """Parse a time that utc_now wrote; None for any other text."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
