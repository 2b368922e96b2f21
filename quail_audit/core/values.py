"""The base of every plain value that crosses a process or stands in a file: frozen, and strict about what it holds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from quail_audit.core.untrusted import printable

LONGEST_PLACE, LONGEST_PROBLEM = 200, 1000  # characters; a key or a value of a document may be of any length

# Of a scheme, an arm, a metric or a term of a loss. Faces put them into titles, so what comes from a file may hold
# nothing that a terminal or a page acts on, nor markup.
NAME_PATTERN = r"^[A-Za-z0-9_.,:+%/ ()-]{1,200}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class Value(BaseModel):
    """A frozen value that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Where in a document the first thing is that is wrong, its parts joined by dots, and what it is."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return printable(place, limit=LONGEST_PLACE), printable(first["msg"], limit=LONGEST_PROBLEM)
