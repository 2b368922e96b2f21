"""Keep a measured layer in the journal: its events, and of its sums what a summary needs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from quail_audit.core.errors import BadInputError
from quail_audit.engine.weights.stored_sums import StoredSums
from quail_audit.engine.weights.sums import PairSums
from quail_audit.runs.journal import Entry
from quail_audit.schema.events.audit import LayerMeasured

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Self

Found = list[tuple[LayerMeasured, Any]]  # each scheme's event and sums


class KeptLayer(Entry):
    """One layer under every scheme that was measured at once."""

    sums_type: ClassVar[type[Any]] = PairSums
    measured: tuple[LayerMeasured, ...]
    sums: tuple[dict[str, int | float], ...]  # of each, those that are one number

    @classmethod
    def of(cls, events: Sequence[Any], result: Found) -> Self | None:
        """Return the entry; None if a scheme failed or sums are not finite: to measure again costs one layer."""
        if len(events) != len(result) or not all(sums.is_finite for _, sums in result):
            return None
        return cls(measured=tuple(events), sums=tuple(_single_numbers(sums) for _, sums in result))

    def replay(self) -> Generator[LayerMeasured, None, Found]:
        """Yield each scheme's event; return it with its sums, without the counts.

        Raises:
            BadInputError: the sums are not of this type.
        """
        try:
            found = [(each, self.sums_type(**sums)) for each, sums in zip(self.measured, self.sums, strict=True)]
        except (TypeError, ValueError) as error:
            raise BadInputError(
                f"what the run measured so far cannot be read: {error}", mend="Start the audit anew"
            ) from error
        yield from self.measured
        return found


class KeptStoredLayer(KeptLayer):
    """One layer as it is stored."""

    sums_type = StoredSums


def _single_numbers(sums: PairSums | StoredSums) -> dict[str, Any]:
    values = {each.name: getattr(sums, each.name) for each in dataclasses.fields(sums)}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
