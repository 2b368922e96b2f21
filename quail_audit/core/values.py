"""Define the frozen, strict base of every value that is stored or sent to a process."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from quail_audit.core.untrusted import printable

LONGEST_PLACE, LONGEST_PROBLEM = 200, 1000  # characters; a document's keys and values may be longer

# Names of schemes, arms, metrics and terms of a loss. They appear in titles, so a name from a file may hold neither
# control characters nor markup.
NAME_PATTERN = r"^[A-Za-z0-9_.,:+%/ ()-]{1,200}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class Value(BaseModel):
    """A frozen value that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return where the first validation error is, as a dotted path, and its message."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return printable(place, limit=LONGEST_PLACE), printable(first["msg"], limit=LONGEST_PROBLEM)
