"""What the app asks about a reader's choices before an audit, and the answers: typed, one JSON line each.

Plain values that cross between two processes. Not here: how an answer is found (preflight.py) or shown (tui/).
"""

import datetime
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from quail_audit.core.values import Value
from quail_audit.schema.figures import CheckpointFacts
from quail_audit.schema.policy import Policy


class AboutCheckpoint(Value):
    """What is this checkpoint? Where it is an adapter, base is the checkpoint that it is applied to."""

    kind: Literal["checkpoint"] = "checkpoint"
    source: str
    base: str | None = None


class AboutPair(Value):
    """Do these belong together?"""

    kind: Literal["pair"] = "pair"
    original: str
    unlearned: str
    retrain: str | None = None


class AboutData(Value):
    """What can be measured with this folder? Where a checkpoint is given: of that model."""

    kind: Literal["data"] = "data"
    folder: str
    checkpoint: str | None = None


class AboutPolicy(Value):
    """What does this file ask of a release? Without a file: the defaults."""

    kind: Literal["policy"] = "policy"
    file: str | None


class AboutSchemes(Value):
    """Which schemes are there?"""

    kind: Literal["schemes"] = "schemes"


class AboutDevices(Value):
    """Which devices has this machine?"""

    kind: Literal["devices"] = "devices"


Question = AboutCheckpoint | AboutPair | AboutData | AboutPolicy | AboutSchemes | AboutDevices


class CheckpointFound(Value):
    """A checkpoint that can be read.

    Attributes:
        facts: of it.
        layers: how many weight matrices a scheme rounds; of an adapter, its base's.
        cached: it is named by a hub's id and was looked at in the local cache; the hub may have a newer one.
        notes: what a reader of a result should know.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    facts: CheckpointFacts
    layers: int
    cached: bool = False
    notes: tuple[str, ...] = ()


class NotYetKnown(Value):
    """Nothing wrong, but it cannot be looked at before the audit: it is on a hub, or needs what is there."""

    kind: Literal["not yet known"] = "not yet known"
    message: str


class PairFound(Value):
    """Checkpoints that fit together: layers are rounded, weights is what is in them."""

    kind: Literal["pair"] = "pair"
    layers: int
    weights: int
    notes: tuple[str, ...] = ()


class DataFound(Value):
    """Metric -> samples, and metric -> why there is nothing to measure."""

    kind: Literal["data"] = "data"
    samples: dict[str, int]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()


class PolicyFound(Value):
    """A policy that can be read, and the day on which it was, by UTC: what its waivers expire by."""

    kind: Literal["policy"] = "policy"
    policy: Policy
    day: datetime.date


class SchemeChoice(Value):
    """A scheme of the audit.

    Attributes:
        name, title, bits_per_weight: as `quail schemes` shows them.
        missing: the command that installs what it lacks; empty where it lacks nothing.
        is_calibrated: it needs texts, which the data folder has.
    """

    name: str
    title: str
    bits_per_weight: float
    missing: str = ""
    is_calibrated: bool = False


class SchemesFound(Value):
    kind: Literal["schemes"] = "schemes"
    schemes: tuple[SchemeChoice, ...]


class DeviceChoice(Value):
    """A value of --device, and what it is: "cpu", "2 cores"."""

    name: str
    title: str


class DevicesFound(Value):
    kind: Literal["devices"] = "devices"
    devices: tuple[DeviceChoice, ...]


class Problem(Value):
    """What is wrong, where, and how to mend it, as a QuailError says it."""

    kind: Literal["problem"] = "problem"
    message: str
    where: str = ""
    mend: str = ""


Answer = CheckpointFound | NotYetKnown | PairFound | DataFound | PolicyFound | SchemesFound | DevicesFound | Problem

_question: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="kind")])
_answer: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def question_of(line: bytes) -> Question:
    """Raises ValueError where the line is no question."""
    return _question.validate_json(line)


def answer_of(line: bytes) -> Answer:
    """Raises ValueError where the line is no answer."""
    return _answer.validate_json(line)
