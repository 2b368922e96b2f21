"""Read how many items there are to forget in all, of which the data has some or all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.untrusted import printable
from quail_audit.engine.forgetting.data.files.json_files import json_kind, parse_document
from quail_audit.engine.forgetting.data.files.text_files import read_text
from quail_audit.engine.forgetting.data.types import KINDS, ForgettingData, Kind
from quail_audit.schema.layout import POPULATION

ALL = "all"
LARGEST = 10**9
# The metrics that decide, by the kind of item that they score.
_DECIDING: Mapping[Kind, tuple[str, ...]] = {
    "verbmem": ("verbmem_forget", "verbmem_probability_forget", "verbmem_extraction_strength_forget"),
    "knowmem": ("knowmem_forget", "knowmem_probability_forget", "knowmem_extraction_strength_forget"),
    "labelled": ("accuracy_forget", "label_probability_forget"),
}
_EXPECTED = (
    "Give the number of items of the whole forget set, as 48; or one for each kind, as "
    '{"verbmem": 24, "knowmem": "all"}; "all": the files hold every one'
)


def read_population(folder: Path, found: Mapping[Kind, int], declared: int | None) -> dict[Kind, int]:
    """Return how many items of each kind there are to forget, if anything says so.

    Args:
        folder: the data folder, whose population.json says it.
        found: how many items of each kind the forget set's files have, those that are not asked included.
        declared: by the option, for every kind; it counts before the file.

    Raises:
        UsageError: the option says less than the files have.
        BadInputError: the file does, or says something else than numbers of items.
    """
    if declared is not None:
        for kind, count in found.items():
            if declared < count:
                raise UsageError(
                    f"the forget set cannot have {declared} items in all: the data has {count} of {kind}",
                    where="--population",
                    mend=f"Give {max(found.values())} or more; other numbers for each kind go into the data's "
                    f"{POPULATION}",
                )
        return dict.fromkeys(found, declared)
    path = folder / POPULATION
    return _of_file(path, found) if path.exists() else {}


def population_by_metric(data: ForgettingData) -> dict[str, int]:
    """Return the population of each metric that decides and is measured."""
    return {
        metric: count for kind, count in data.population.items() for metric in _DECIDING[kind] if metric in data.samples
    }


def _of_file(path: Path, found: Mapping[Kind, int]) -> dict[Kind, int]:
    said = parse_document(read_text(path), path, _EXPECTED)
    by_kind = said if isinstance(said, dict) else dict.fromkeys(found, said)
    if unknown := [key for key in by_kind if key not in KINDS]:
        named = printable(unknown[0], limit=40)
        raise _refuse(path, f"{named!r} is no kind of item: {', '.join(KINDS)}")
    population: dict[Kind, int] = {}
    for kind in KINDS:
        if kind not in by_kind or kind not in found:
            continue
        count = found[kind] if by_kind[kind] == ALL else by_kind[kind]
        if not isinstance(count, int) or isinstance(count, bool):
            raise _refuse(path, f"{_shown(count)} is not a number of items")
        if not found[kind] <= count <= LARGEST:
            why = f"the data has {found[kind]} of {kind}" if count < found[kind] else f"at most {LARGEST} can be"
            raise _refuse(path, f"the forget set cannot have {_shown(count)} items in all: {why}")
        population[kind] = count
    return population


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else "so many"
    text = json.dumps(value) if isinstance(value, str | bool | float) else f"a JSON {json_kind(value)}"
    return printable(text, limit=40)


def _refuse(path: Path, what: str) -> BadInputError:
    return BadInputError(what, where=str(path), mend=_EXPECTED)
