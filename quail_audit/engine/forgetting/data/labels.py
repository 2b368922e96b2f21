"""Match the labels of the data with a classifier's names for its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable

MOST_NAMED = 6


def label_names(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return a classifier's names for its classes, by index.

    Raises:
        BadInputError: it has fewer than two, two of one name, or its config.json numbers them otherwise than from 0.
    """
    where = f"{where}/config.json"
    found = config.get("id2label")
    if found is None:
        count = config.get("num_labels", 2)
        names = tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) else 0))
    else:
        numbered = {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
        names = tuple(numbered.get(str(i), "") for i in range(len(numbered)))
    if len(names) < 2 or config.get("problem_type") in ("regression", "multi_label_classification"):
        raise BadInputError(
            "the model does not choose one label among several",
            where=where,
            mend="Quail measures classifiers with two labels or more, one of which is right",
        )
    if "" in names or len(set(names)) < len(names):
        raise BadInputError("id2label should name each class once, from 0 on", where=where, mend="Correct id2label")
    return names


def match_label(label: str, names: tuple[str, ...]) -> str | None:
    if label in names:
        return label
    alike = [name for name in names if name.casefold() == label.casefold()]
    if len(alike) == 1:
        return alike[0]
    if label.isascii() and label.isdecimal() and len(label) < 10 and int(label) < len(names):
        return names[int(label)]
    return None


def is_numbered(names: tuple[str, ...]) -> bool:
    """Tell whether these are the names that transformers gives to classes that nobody named."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))


def list_words(names: tuple[str, ...] | list[str]) -> str:
    few = ", ".join(printable(name, limit=40) for name in names[:MOST_NAMED])
    return f"{few}, …" if len(names) > MOST_NAMED else few
