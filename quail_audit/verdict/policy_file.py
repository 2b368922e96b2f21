"""Find and read a policy's file: quail.toml, or [tool.quail] of a pyproject.toml.

Only the working folder is searched, not its parents: a forgotten file there could loosen the limits. The report names
the file and its values. schema/policy.py defines the keys.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.reading import read_toml, refuse_unknown
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import new_file
from quail_audit.schema.older_policy import read_older_limits, read_older_policy
from quail_audit.schema.policy import (
    LAYER_LIMITS,
    LIMITS,
    METRIC_LIMITS,
    NO_FILE,
    Limits,
    OtherLimits,
    Policy,
    Requirements,
    Rule,
    Waiver,
)

NAME = "quail.toml"
PYPROJECT = "pyproject.toml"
LARGEST_PYPROJECT_BYTES = 1 << 20  # most of it is about other tools

_TABLES: Mapping[str, type[BaseModel]] = {
    "": Policy,
    "limits": Limits,
    "limits.where": OtherLimits,
    "required": Requirements,
    "rules": Rule,
    "waivers": Waiver,
}


def find_policy(folder: Path) -> str | None:
    """Return the name of a folder's policy file: quail.toml, else a pyproject.toml with [tool.quail].

    Raises:
        BadInputError: a pyproject.toml cannot be read.
    """
    if (folder / NAME).is_file():
        return NAME
    pyproject = folder / PYPROJECT
    return PYPROJECT if pyproject.is_file() and _quail_table(pyproject) is not None else None


def choose_policy(named: str | None, folder: Path) -> str | None:
    """Return the policy file of an audit; None: the defaults.

    Args:
        named: the value of --policy: a file, or NO_FILE; None: the folder's own file, if there is one.
        folder: the working folder.

    Raises:
        BadInputError: see find_policy.
    """
    if named is None:
        return find_policy(folder)
    return None if named == NO_FILE else named


def read_policy(path: str | None, given: Mapping[str, float] | None = None) -> Policy:
    """Return the policy of a file, overridden by the command line's limits; see read_policy_and_notes."""
    return read_policy_and_notes(path, given)[0]


def read_policy_and_notes(path: str | None, given: Mapping[str, float] | None = None) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy of a file, overridden by the command line's limits, and notes on names that changed.

    Args:
        path: a TOML file; in a pyproject.toml, [tool.quail] is read. None: the defaults.
        given: limit -> value, from the command line: overrides every limit of the file.

    Raises:
        BadInputError: a missing file, invalid TOML, an unknown key (with a suggestion), or an invalid value.
        UsageError: an unknown or invalid limit on the command line.
    """
    policy, notes = (Policy(), ()) if path is None else _read_file(Path(path))
    limits, older = read_older_limits(dict(given or {}))
    found = tuple(f"{path}: {note}" for note in notes) + tuple(f"--limit: {note}" for note in older)
    return (_override_limits(policy, limits) if limits else policy), found


def read_template() -> str:
    """Return the commented policy that `quail policy init` writes. Its values are the defaults."""
    return files("quail_audit.verdict").joinpath(NAME).read_text(encoding="utf-8")


def write_template(path: Path) -> None:
    """Write a commented policy with the defaults.

    Raises:
        BadInputError: the file already exists.
        EnvironmentProblemError: it cannot be written.
    """
    try:
        with new_file(path) as file:
            file.write(read_template())
    except FileExistsError as error:
        raise BadInputError(
            "already exists and was not changed", where=str(path), mend="Choose another name"
        ) from error


def _read_file(path: Path) -> tuple[Policy, tuple[str, ...]]:
    where = printable(str(path))
    if path.name == PYPROJECT:
        document = _quail_table(path)
        if document is None:
            raise BadInputError("has no [tool.quail]", where=where, mend="Add it, or give another file with --policy")
    else:
        document = read_toml(path, "policy")
    document, notes = read_older_policy(document)
    return _policy_of(document, where), notes


def _quail_table(pyproject: Path) -> dict[str, Any] | None:
    tools = read_toml(pyproject, "policy", largest_bytes=LARGEST_PYPROJECT_BYTES).get("tool")
    table = tools.get("quail") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise BadInputError("[tool.quail] must be a table", where=printable(str(pyproject)))
    return table


def _policy_of(document: dict[str, Any], where: str) -> Policy:
    refuse_unknown(document, set(Policy.model_fields), where=where, what="table")
    for name in document:
        if not isinstance(document[name], list if name in ("rules", "waivers") else dict):
            kind = "a list of tables, each written" if name in ("rules", "waivers") else "a table, written"
            written = f"[[{name}]]" if name in ("rules", "waivers") else f"[{name}]"
            raise BadInputError(f"{name} must be {kind} {written}", where=where)
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise _error_of(error, document, where) from error


def _error_of(error: ValidationError, document: dict[str, Any], where: str) -> BadInputError:
    """Return the first error; a misspelt key comes before the missing one."""
    found = error.errors(include_url=False, include_input=False)
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    *_, key = place = first["loc"] or ("",)
    if first["type"] == "extra_forbidden":
        table = ".".join(str(part) for part in place[:-1] if isinstance(part, str))
        known = _TABLES[table].model_fields
        try:
            refuse_unknown({str(key): None}, known, where=where, what=f"key in {_place_text(place[:-1], document)}")
        except BadInputError as unknown:
            return unknown
    message = first["msg"].removeprefix("Value error, ")
    return BadInputError(printable(f"{_place_text(place, document)}: {message}"), where=where)


def _place_text(place: tuple[int | str, ...], document: dict[str, Any]) -> str:
    """Return the place as a person would find it: "rules, the 2nd (the MLPs carry their updates), at_least"."""
    words: list[str] = []
    at: Any = document
    for part in place:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            at = None
        if isinstance(part, int):
            name = at.get("name") if isinstance(at, dict) else None
            words[-1:] = [
                f"{words[-1] if words else ''} number {part + 1}{f' ({name})' if isinstance(name, str) else ''}"
            ]
        else:
            words.append(part)
    return printable(", ".join(words), limit=200) or "the policy"


def _override_limits(policy: Policy, given: Mapping[str, float]) -> Policy:
    refuse_bad_limits(given)
    where = []
    for each in policy.limits.where:
        kept = each.model_copy(update={name: None for name in given if name in OtherLimits.model_fields})
        if any(getattr(kept, name) is not None for name in (*METRIC_LIMITS, *LAYER_LIMITS)):
            where.append(kept)
    limits = Limits.model_validate(policy.limits.model_dump() | dict(given) | {"where": tuple(where)})
    return policy.model_copy(update={"limits": limits})


def refuse_bad_limits(given: Mapping[str, float]) -> None:
    """Refuse unknown or invalid limits of the command line.

    Raises:
        UsageError: one is unknown, or out of range.
    """
    try:
        given = read_older_limits(dict(given))[0]
        refuse_unknown(given, LIMITS, where="--limit", what="limit")
        Limits.model_validate(dict(given))
    except BadInputError as error:
        raise UsageError(error.message, where=error.where, mend=error.mend) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg']}", where="--limit") from error
