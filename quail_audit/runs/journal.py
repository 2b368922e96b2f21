"""Keep on disk what an audit has measured, so that a stopped audit can resume.

Events say what a reader needs; resuming takes more: a layer's sums, a batch's results, an arm's scores by sample. Each
entry is a line of JSON with its key, on disk before the next piece is measured.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.core.values import Value, first_problem
from quail_audit.core.writing import append_line, drop_unfinished_line, open_to_append
from quail_audit.schema.events.audit import SampleScored

if TYPE_CHECKING:
    from typing import Any, Self

    import numpy.typing as npt

M = TypeVar("M", bound=Value)
E = TypeVar("E")
R = TypeVar("R")


class Entry(Value):
    """A finished piece of work as it is kept; subclasses say what of it."""

    @classmethod
    def of(cls, events: Sequence[Any], result: Any) -> Self | None:
        """Make the entry from the events of the work, without samples, and its result; None: it is not to be kept."""
        raise NotImplementedError

    def replay(self) -> Generator[Any, None, Any]:
        """Yield the events again, and return the result."""
        raise NotImplementedError


class KeptArray(Value):
    """An array, bit for bit."""

    dtype: Literal["float32", "float64"]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    base64: str  # of its values in C order, little-endian

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> KeptArray:
        """Return an array of one of the types above as it is kept."""
        import numpy as np

        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return cls.model_validate(
            {"dtype": array.dtype.name, "shape": array.shape, "base64": base64.b64encode(data).decode()}
        )

    def array(self) -> npt.NDArray[Any]:
        """Return the array.

        Raises:
            BadInputError: the values do not fit the type and the shape.
        """
        import numpy as np

        try:
            data = base64.b64decode(self.base64, validate=True)
            found = np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)
        except (binascii.Error, ValueError) as error:
            raise _journal_error(f"an array does not fit its shape: {error}") from error
        return found.astype(self.dtype)


@dataclass(frozen=True, eq=False)
class Journal:
    """Entries by their keys. A journal without a file keeps nothing and finds nothing.

    Attributes:
        path: the file; see open_journal.
        descriptor: open to append to the file.
        places: key -> where its line begins, in bytes.
        prefix: how every key begins.
    """

    path: Path | None = None
    descriptor: int = -1
    places: dict[tuple[str, ...], int] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def section(self, *prefix: str) -> Journal:
        """Return the same journal, every key of which begins with more."""
        return replace(self, prefix=self.prefix + prefix)

    def once(
        self, key: tuple[str, ...], kind: type[Entry], work: Generator[E, None, R], *, again: bool = False
    ) -> Generator[E, None, R]:
        """Yield the events of work and return its result: those that were kept, else by running it and keeping them.

        Args:
            key: where the entry is kept.
            kind: what is kept of the work.
            work: not started if its entry was kept.
            again: run it even so, since more is needed of it than was kept.
        """
        before = None if again else self.find(kind, *key)
        if before is not None:
            found: R = yield from before.replay()
            return found
        if self.path is None:
            return (yield from work)
        events: list[E] = []
        found = yield from collect(work, events)
        entry = kind.of(events, found)
        if entry is not None:
            self.keep(entry, *key)
        return found

    def holds(self, *key: str) -> bool:
        """Return True if an entry was kept under a key."""
        return self.prefix + key in self.places

    def find(self, model: type[M], *key: str) -> M | None:
        """Return the entry that was kept under a key, or None.

        Raises:
            BadInputError: the entry is not of this model.
        """
        place = self.places.get(self.prefix + key)
        if place is None or self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return model.model_validate(json.loads(file.readline())["entry"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _journal_error(_first_of(error), self.path) from error

    def keep(self, entry: Value, *key: str) -> None:
        """Keep an entry; the first under a key stays.

        Raises:
            EnvironmentProblemError: it cannot be written.
        """
        if self.path is None or self.holds(*key):
            return
        place, whole = os.fstat(self.descriptor).st_size, self.prefix + key
        append_line(self.descriptor, json.dumps({"key": whole, "entry": entry.model_dump(mode="json")}), self.path)
        self.places[whole] = place


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a run's journal with the entries that it holds; drop a last line that was cut off.

    Raises:
        BadInputError: a line is not an entry.
        EnvironmentProblemError: it cannot be read or written.
    """
    with open_to_append(path, new=False) as descriptor:
        drop_unfinished_line(path)
        yield Journal(path, descriptor, dict(_places(path)))


def pass_on(events: Generator[E, None, R], sees: Callable[[E], bool]) -> Generator[E, None, R]:
    """Show each event to a function, pass on those of which it returns True, and return the events' result."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            found: R = end.value
            return found
        if sees(event):
            yield event


def collect(
    events: Generator[E, None, R], collected: list[E], samples: list[SampleScored] | None = None
) -> Generator[E, None, R]:
    """Pass events on, and collect on their way all that are not samples; samples apart, if there is a list."""

    def sees(event: E) -> bool:
        if not isinstance(event, SampleScored):
            collected.append(event)
        elif samples is not None:
            samples.append(event)
        return True

    return (yield from pass_on(events, sees))


def _places(path: Path) -> Generator[tuple[tuple[str, ...], int], None, None]:
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                key = json.loads(line)["key"]
                if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
                    raise ValueError("its key is not a list of names")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise _journal_error(_first_of(error), path, number) from error
            yield tuple(key), place
            place += len(line)


def _first_of(error: Exception) -> str:
    if isinstance(error, ValidationError):
        place, problem = first_problem(error)
        return f"{place}: {problem}"
    return str(error) or type(error).__name__


def _journal_error(what: str, path: Path | None = None, number: int | None = None) -> BadInputError:
    where = "" if path is None else str(path) + ("" if number is None else f", line {number}")
    return BadInputError(
        f"what the run measured so far cannot be read: {what}",
        where=where,
        mend="The file was edited or damaged: start the audit anew",
    )
