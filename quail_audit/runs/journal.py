"""What an audit has measured so far, beside its events: kept as it goes, so that a stopped one can go on.

Events say what a reader needs; to go on takes more: a layer's sums, a batch's results, an arm's scores by sample. Each
entry is a line of JSON with its key, on disk before the next piece is measured. Not here: what is kept under which key
(audit.py, calibrated.py, stored.py, forgetting/batches.py), and how a run goes on (runs.py).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.core.values import Value, first_problem
from quail_audit.core.writing import append_line, drop_unfinished_line, open_to_append

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

M = TypeVar("M", bound=Value)
E = TypeVar("E")
K = TypeVar("K")
R = TypeVar("R")


class KeptArray(Value):
    """An array, bit for bit."""

    dtype: Literal["float32", "float64"]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    base64: str  # of its values in C order, little-endian

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> KeptArray:
        """Keep an array of one of the types above."""
        import numpy as np

        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return cls.model_validate(
            {"dtype": array.dtype.name, "shape": array.shape, "base64": base64.b64encode(data).decode()}
        )

    def array(self) -> npt.NDArray[Any]:
        """The array.

        Raises:
            BadInputError: the values are no such array's.
        """
        import numpy as np

        try:
            data = base64.b64decode(self.base64, validate=True)
            found = np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)
        except (binascii.Error, ValueError) as error:
            raise _spoilt(f"an array is not as its shape says: {error}") from error
        return found.astype(self.dtype)


class Journal:
    """Entries by their keys. One that has no file keeps nothing and finds nothing.

    Args:
        path: of the file; see open_journal.
        descriptor: to append to.
        places: key -> where its line begins, in bytes.
    """

    def __init__(
        self, path: Path | None = None, descriptor: int = -1, places: dict[tuple[str, ...], int] | None = None
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._places = {} if places is None else places

    def holds(self, *key: str) -> bool:
        """Whether something was kept under a key."""
        return key in self._places

    def find(self, model: type[M], *key: str) -> M | None:
        """What was kept under a key; None: nothing.

        Raises:
            BadInputError: what stands there is no such entry.
        """
        place = self._places.get(key)
        if place is None or self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                file.seek(place)
                return model.model_validate(json.loads(file.readline())["entry"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _spoilt(_first_of(error), self._path) from error

    def keep(self, entry: Value, *key: str) -> None:
        """Keep an entry; the first under a key stays.

        Raises:
            EnvironmentProblemError: it cannot be written.
        """
        if self._path is None or self.holds(*key):
            return
        place = os.fstat(self._descriptor).st_size
        append_line(self._descriptor, json.dumps({"key": key, "entry": entry.model_dump(mode="json")}), self._path)
        self._places[key] = place


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal of a run, with what it holds already; a last line that was cut off is dropped.

    Raises:
        BadInputError: a line is no entry.
        EnvironmentProblemError: it cannot be read or written.
    """
    with open_to_append(path, new=False) as descriptor:
        drop_unfinished_line(path)
        yield Journal(path, descriptor, dict(_places(path)))


def collecting(events: Generator[E, None, R], kinds: tuple[type[K], ...], collected: list[K]) -> Generator[E, None, R]:
    """Pass events on, and collect those of some kinds on their way."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            found: R = end.value
            return found
        if isinstance(event, kinds):
            collected.append(event)
        yield event


def _places(path: Path) -> Generator[tuple[tuple[str, ...], int], None, None]:
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                key = json.loads(line)["key"]
                if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
                    raise ValueError("its key is no list of names")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise _spoilt(_first_of(error), path, number) from error
            yield tuple(key), place
            place += len(line)


def _first_of(error: Exception) -> str:
    if isinstance(error, ValidationError):
        place, problem = first_problem(error)
        return f"{place}: {problem}"
    return str(error) or type(error).__name__


def _spoilt(what: str, path: Path | None = None, number: int | None = None) -> BadInputError:
    where = "" if path is None else str(path) + ("" if number is None else f", line {number}")
    return BadInputError(
        f"what the run measured so far cannot be read: {what}",
        where=where,
        mend="The file was edited or damaged: start the audit anew",
    )
