"""A layer's figures as a stopped audit kept them: its events, and of its sums what a scheme's summary needs.

Not here: the file they are kept in (journal.py).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from quail_audit.core.errors import BadInputError
from quail_audit.core.values import Value
from quail_audit.engine.weights.stored_sums import StoredSums
from quail_audit.engine.weights.sums import PairSums
from quail_audit.schema.events.audit import LayerMeasured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quail_audit.runs.journal import Journal

S = TypeVar("S", PairSums, StoredSums)


class KeptLayer(Value):
    """One layer under every scheme that was measured at once."""

    measured: tuple[LayerMeasured, ...]
    sums: tuple[dict[str, int | float], ...]  # of each, those that are one number


def keep_layer(journal: Journal, found: Sequence[tuple[LayerMeasured, S]], *key: str) -> None:
    """Keep a layer. One whose sums are not finite is not kept: it is measured again, which costs one layer.

    Args:
        journal: that keeps it.
        found: each scheme's event and sums.
        key: the entry's.
    """
    if all(sums.is_finite for _, sums in found):
        entry = KeptLayer(
            measured=tuple(event for event, _ in found), sums=tuple(_single_numbers(sums) for _, sums in found)
        )
        journal.keep(entry, "layer", *key)


def is_kept(journal: Journal, *key: str) -> bool:
    """Whether a layer was kept."""
    return journal.holds("layer", *key)


def kept_layer(journal: Journal, kind: type[S], *key: str) -> list[tuple[LayerMeasured, S]] | None:
    """A layer as it was kept: each scheme's event, and sums without the counts; None: it was not.

    Raises:
        BadInputError: what was kept are no such sums.
    """
    entry = journal.find(KeptLayer, "layer", *key)
    if entry is None:
        return None
    try:
        return [(each, _restored(kind, sums)) for each, sums in zip(entry.measured, entry.sums, strict=True)]
    except (TypeError, ValueError) as error:
        raise BadInputError(
            f"what the run measured so far cannot be read: {error}", mend="Start the audit anew"
        ) from error


def _restored(kind: type[S], sums: Mapping[str, Any]) -> S:
    return kind(**sums)


def _single_numbers(sums: PairSums | StoredSums) -> dict[str, Any]:
    values = {each.name: getattr(sums, each.name) for each in dataclasses.fields(sums)}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
