"""The time of day, in the one form Quail writes it, and read again."""

from datetime import UTC, datetime


def utc_now() -> str:
    """ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def utc_of(moment: str) -> datetime | None:
    """A moment as utc_now writes it; None where a file from elsewhere has something else there."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
