"""Complete a path as it is typed: folders, and files of one ending if files are wanted."""

from __future__ import annotations

import asyncio
import os
from itertools import islice
from pathlib import Path

from textual.suggester import Suggester

ENTRIES = 5_000  # of a folder; in a larger one nothing is completed


class FolderSuggester(Suggester):
    """Suggests the first folder whose name begins as typed. `~` is read as by a shell, and stays as typed.

    Args:
        ending: complete files with this ending too: ".toml".
    """

    def __init__(self, ending: str | None = None) -> None:
        super().__init__(use_cache=False, case_sensitive=True)  # folders come and go
        self._ending = ending

    async def get_suggestion(self, value: str) -> str | None:
        """See Suggester. Runs in a thread, as a folder may be on a network."""
        return await asyncio.to_thread(complete, value, self._ending)


def complete(value: str, ending: str | None = None) -> str | None:
    """Return the path with its last part completed; None if nothing fits or the folder cannot be read."""
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
