"""Define the app's questions before an audit, and their answers, one JSON line each.

engine/preflight.py answers them in a process of its own.
"""

import datetime
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from quail_audit.core.values import Value
from quail_audit.schema.figures import CheckpointFacts
from quail_audit.schema.policy import Policy


class AboutCheckpoint(Value):
    """A question: what is this checkpoint? For an adapter, base is the checkpoint it is applied to."""

    kind: Literal["checkpoint"] = "checkpoint"
    source: str
    base: str | None = None


class AboutPair(Value):
    """A question: do these checkpoints belong together?"""

    kind: Literal["pair"] = "pair"
    original: str
    unlearned: str
    retrain: str | None = None


class AboutData(Value):
    """A question: what can be measured with this folder? With a checkpoint, on that model."""

    kind: Literal["data"] = "data"
    folder: str
    checkpoint: str | None = None


class AboutPolicy(Value):
    """A question: what does this policy file require? None: the defaults."""

    kind: Literal["policy"] = "policy"
    file: str | None


class AboutSchemes(Value):
    """A question: which schemes are there?"""

    kind: Literal["schemes"] = "schemes"


class AboutDevices(Value):
    """A question: which devices does this machine have?"""

    kind: Literal["devices"] = "devices"


Question = AboutCheckpoint | AboutPair | AboutData | AboutPolicy | AboutSchemes | AboutDevices


class CheckpointFound(Value):
    """A checkpoint that can be read.

    Attributes:
        facts: what its folder holds.
        layers: how many weight matrices a scheme rounds; for an adapter, its base's.
        cached: it is a hub id that was found in the local cache; the hub may have a newer revision.
        notes: what a reader of a result should know.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    facts: CheckpointFacts
    layers: int
    cached: bool = False
    notes: tuple[str, ...] = ()


class NotYetKnown(Value):
    """Nothing is wrong, but it cannot be checked before the audit: it is on a hub, or depends on something there."""

    kind: Literal["not yet known"] = "not yet known"
    message: str


class PairFound(Value):
    """Checkpoints that fit together, the number of their rounded layers, and of the weights in these."""

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
    """A readable policy, and the day (UTC) that its waivers are compared with."""

    kind: Literal["policy"] = "policy"
    policy: Policy
    day: datetime.date


class SchemeChoice(Value):
    """A scheme of the audit.

    Attributes:
        name, title, bits_per_weight: as `quail schemes` shows them.
        missing: the command that installs what it lacks; empty if nothing is missing.
        is_calibrated: it needs texts from the data folder.
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
    """A value of --device and its description: "cpu", "2 cores"."""

    name: str
    title: str


class DevicesFound(Value):
    kind: Literal["devices"] = "devices"
    devices: tuple[DeviceChoice, ...]


class Problem(Value):
    """A QuailError's texts: what is wrong, where, and how to mend it."""

    kind: Literal["problem"] = "problem"
    message: str
    where: str = ""
    mend: str = ""


Answer = CheckpointFound | NotYetKnown | PairFound | DataFound | PolicyFound | SchemesFound | DevicesFound | Problem

_question: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="kind")])
_answer: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def question_of(line: bytes) -> Question:
    """Parse a question. Raises ValueError if the line is not one."""
    return _question.validate_json(line)


def answer_of(line: bytes) -> Answer:
    """Parse an answer. Raises ValueError if the line is not one."""
    return _answer.validate_json(line)
