"""Completes a path as it is typed: folders, and files of one ending where files are wanted. Shows nothing."""

from __future__ import annotations

import asyncio
import os
from itertools import islice
from pathlib import Path

from textual.suggester import Suggester

ENTRIES = 5_000  # of a folder that are looked at; a larger one is not completed in


class FolderSuggester(Suggester):
    """The first folder by name that goes on from what is typed. `~` is read as a shell reads it, and stays as typed.

    Args:
        ending: complete files with this ending too: ".toml".
    """

    def __init__(self, ending: str | None = None) -> None:
        super().__init__(use_cache=False, case_sensitive=True)  # folders come and go
        self._ending = ending

    async def get_suggestion(self, value: str) -> str | None:
        """See Suggester. In a thread: a folder may be on a network."""
        return await asyncio.to_thread(complete, value, self._ending)


def complete(value: str, ending: str | None = None) -> str | None:
    """The path with its last part completed; None where nothing goes on from it or the folder cannot be read."""
    parent, begun = os.path.split(value)
    if not value or value.endswith(os.sep + os.curdir) or begun == "~":
        return None
    try:
        with os.scandir(Path(parent or os.curdir).expanduser()) as entries:
            names = sorted(
                entry.name
                for entry in islice(entries, ENTRIES)
                if entry.name.startswith(begun or "")
                and entry.name != begun
                and (begun.startswith(".") or not entry.name.startswith("."))
                and entry.name.isprintable()
                and (entry.is_dir() or (ending is not None and entry.name.endswith(ending)))
            )
    except (OSError, ValueError, RuntimeError):
        return None
    return value[: len(value) - len(begun)] + names[0] if names else None
