"""Read policies that were written for an older Quail: names that changed."""

from typing import Any

_LIMIT, _LIMITS = "max_recovery_percent", ("max_known_percent", "max_back_percent")
_NAME = "recovery"


def read_older_limits(document: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a table of limits with the names of today, and a note on each that changed."""
    if not isinstance(document, dict):
        return document, ()
    notes: tuple[str, ...] = ()
    if _LIMIT in document:
        document = dict.fromkeys(_LIMITS, document[_LIMIT]) | {k: v for k, v in document.items() if k != _LIMIT}
        notes = (f"{_LIMIT} is read as {_LIMITS[0]} and {_LIMITS[1]}: what is known, and the share of items back",)
    if isinstance(document.get("where"), list | tuple):
        read = [read_older_limits(each) for each in document["where"]]
        document = document | {"where": [each for each, _ in read]}
        notes += tuple(note for _, found in read for note in found)
    return document, tuple(dict.fromkeys(notes))


def read_older_policy(document: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a policy's document with the names of today, and a note on each that changed."""
    if not isinstance(document, dict):
        return document, ()
    limits, notes = read_older_limits(document.get("limits"))
    changed = {"limits": limits} if notes else {}
    for table, key, named in (("rules", "figure", "known"), ("waivers", "rule", "forgetting")):
        rows = document.get(table)
        if not isinstance(rows, list) or not any(isinstance(row, dict) and row.get(key) == _NAME for row in rows):
            continue
        changed[table] = [
            row | {key: named} if isinstance(row, dict) and row.get(key) == _NAME else row for row in rows
        ]
        notes += (f'{key} = "{_NAME}" of {table} is read as "{named}"',)
    return document | changed, notes
