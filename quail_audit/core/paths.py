"""Check that a path named in a file stays inside its folder."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

MAX_NAME_BYTES = 255  # the limit of common file systems

DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")  # a checkpoint's configuration and tokenizer


def is_inside(name: str) -> bool:
    """Return whether a relative path stays in its folder on any system, and is printable as it is."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return (
        name.isprintable()
        and len(name.encode()) <= MAX_NAME_BYTES
        and bool(posix.parts)
        and not (posix.is_absolute() or windows.drive or windows.root)
        and ".." not in posix.parts
        and ".." not in windows.parts
    )
