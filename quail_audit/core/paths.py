"""Whether a name that a file gives stays inside its folder, and how long a name may be."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

MAX_NAME_BYTES = 255  # file systems take no longer one


DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")  # a checkpoint's configuration and tokenizer


def is_inside(name: str) -> bool:
    """Whether a relative path leads to something in its folder, on any system, and can be printed as it is."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return (
        name.isprintable()
        and len(name.encode()) <= MAX_NAME_BYTES
        and bool(posix.parts)
        and not (posix.is_absolute() or windows.drive or windows.root)
        and ".." not in posix.parts
        and ".." not in windows.parts
    )
