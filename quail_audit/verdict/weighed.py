"""Hold the figures that the items' scores of an audit give."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from quail_audit.schema.figures import Kept, Knowledge


@dataclass(frozen=True)
class Weighed:
    """The figures of an audit.

    Attributes:
        knowledge: scheme -> deciding metric -> what is known.
        utility: scheme -> retain metric -> what is kept.
    """

    knowledge: Mapping[str, Mapping[str, Knowledge]] = field(default_factory=dict)
    utility: Mapping[str, Mapping[str, Kept]] = field(default_factory=dict)
