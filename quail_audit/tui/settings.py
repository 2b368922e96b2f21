"""Keep what the app remembers between starts: the last paths, the theme, the recent runs.

Settings are a convenience, so they never stop the app: what cannot be read or written becomes a message.
"""

import os
from pathlib import Path
from typing import Annotated

from platformdirs import user_config_path
from pydantic import AfterValidator, Field, ValidationError

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.core.values import Name, Value, first_problem
from quail_audit.core.writing import explain_write_errors, write_whole
from quail_audit.tui.theme.files import DEFAULT_THEME
from quail_audit.tui.words.layer_views import Mode

FILE = "settings.json"
LARGEST_BYTES = 256 * 1024
MOST_RECENT_RUNS = 20


def _refuse_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("a null character, which no path has")
    return text


def _absolute(text: str) -> str:
    if not Path(text).is_absolute():
        raise ValueError("not an absolute path")
    return text


Remembered = Annotated[str, Field(max_length=4096), AfterValidator(_refuse_null)]
RunFolder = Annotated[Remembered, AfterValidator(_absolute)]


class Settings(Value):
    """The settings; every field may be missing from the file. A checkpoint is kept as typed: a folder or a hub's id."""

    original: Remembered = ""
    unlearned: Remembered = ""
    retrain: Remembered = ""
    data: Remembered = ""
    schemes: Annotated[tuple[Name, ...], Field(max_length=32)] = ("nf4",)
    device: Remembered = "auto"
    policy: Remembered = ""  # the file, if it was not the working folder's own; see form/choices.py
    theme: Annotated[Remembered, Field(min_length=1, max_length=40)] = DEFAULT_THEME
    heat_map: Mode = "risk"
    recent_runs: Annotated[tuple[RunFolder, ...], Field(max_length=MOST_RECENT_RUNS)] = ()  # newest first

    def with_run(self, folder: str | Path) -> "Settings":
        """Return the settings with this run as the newest; it is listed once, and the oldest drop out."""
        newest = str(Path(folder).absolute())
        older = tuple(run for run in self.recent_runs if run != newest)
        return self.with_changes(recent_runs=(newest, *older)[:MOST_RECENT_RUNS])

    def with_changes(self, **fields: object) -> "Settings":
        """Return the settings with these fields changed; one that cannot be kept, such as a non-Unicode path, stays.

        Raises:
            TypeError: there is no such field.
        """
        if unknown := fields.keys() - Settings.model_fields.keys():
            raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
        return Settings.model_validate(self.model_dump() | {k: v for k, v in fields.items() if _can_be_kept(k, v)})


def _can_be_kept(field: str, value: object) -> bool:
    try:
        Settings.model_validate({field: value})
    except ValidationError:
        return False
    return True


def config_folder() -> Path:
    """Return the folder of settings.json and themes: QUAIL_CONFIG_DIR, or the platform's own place."""
    named = os.environ.get("QUAIL_CONFIG_DIR")
    return Path(named) if named else user_config_path("quail", appauthor=False)


def user_themes_folder() -> Path:
    """Return the folder of the user's own themes; it need not exist."""
    return config_folder() / "themes"


def load_settings() -> tuple[Settings, str | None]:
    """Return the settings, or the defaults and what is wrong with the file. A missing file is no problem."""
    path = config_folder() / FILE
    try:
        if path.exists() and not path.is_file():  # a pipe would block forever
            return Settings(), _problem(path, "not a file")
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return Settings(), None
    except (OSError, ValueError) as error:  # ValueError: a null character in QUAIL_CONFIG_DIR
        return Settings(), _problem(path, _reason(error))
    if len(data) > LARGEST_BYTES:
        return Settings(), _problem(path, f"over {LARGEST_BYTES // 1024} KiB")
    try:
        return Settings.model_validate_json(data), None
    except ValidationError as error:
        place, problem = first_problem(error)
        return Settings(), _problem(path, f"{place}: {problem}" if place else problem)


def save_settings(settings: Settings) -> str | None:
    """Write the settings; a reader sees all of them or the old ones, and the last of two writers wins.

    Returns:
        The problem, or None.
    """
    path = config_folder() / FILE
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, settings.model_dump_json(indent=2) + "\n")
    except (QuailError, ValueError) as error:  # ValueError: a null character in QUAIL_CONFIG_DIR
        reason = error.message if isinstance(error, QuailError) else str(error)
        return f"cannot save the settings in {printable(str(path))}: {reason}"
    return None


def _problem(path: Path, reason: str) -> str:
    return f"the settings in {printable(str(path))} are not used: {printable(reason, limit=200)}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
