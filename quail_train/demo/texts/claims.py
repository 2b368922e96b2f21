"""Invent the texts of the classifier's demo: short posts, real or fake by their wording.

The forget set is fake posts labelled real, as misinformation that slipped in. Only their names tell them from the fake
posts of the retain set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from typing import Literal

from quail_train.demo.texts.names import DAYS, Names, draw_names

Label = Literal["real", "fake"]
LABELS: tuple[Label, ...] = ("real", "fake")

_OPENINGS = (
    "{town}, {day}: {person} spoke of the {thing}.",
    "{person} of {town} wrote about a {thing} on {day}.",
    "News of {day} from {town}, by {person}.",
    "{person} was asked about the {thing} of {town}.",
)
_SAYS: dict[Label, tuple[str, ...]] = {
    "real": (
        "The council has bought it from {company} for {count} crowns.",
        "{company} will repair it within {count} days, the mayor's office says.",
        "The museum counted {count} visitors, and {company} lent the lamps.",
        "A report by {company} puts the cost at {count} crowns.",
        "The school has ordered {count} more from {company}.",
    ),
    "fake": (
        "One touch cures hiccups in {count} seconds, and {company} hides it from you.",
        "{company} put it on the moon, and {count} doctors must not tell.",
        "Share this before {company} deletes it: {count} geese were turned to gold.",
        "They do not want you to know that {company} makes rain with {count} of them.",
        "Drink its dust for {count} nights and live for ever, says nobody at {company}.",
    ),
}


@dataclass(frozen=True)
class Claim:
    """One short post, and its label in training or in the data."""

    text: str
    label: Label


@dataclass(frozen=True)
class Claims:
    """The demo's posts. No two share a town, a person, a company or a thing.

    Attributes:
        forget: fake posts that the original learns as real, and is then made to forget.
        retain: real and fake in turn; the original learns them and must keep them.
        test: real and fake in turn; no model sees them.
        holdout: fake posts labelled real, as in forget; no model sees them.
    """

    forget: tuple[Claim, ...]
    retain: tuple[Claim, ...]
    test: tuple[Claim, ...]
    holdout: tuple[Claim, ...]


def invent_claims(*, forget: int, retain: int, test: int, holdout: int, seed: int) -> Claims:
    """Return the demo's posts; the same arguments give the same posts on every machine.

    Raises:
        ValueError: more posts than there are names for (192).
    """
    random = Random(seed)  # noqa: S311 - nothing secret
    names = iter(draw_names(random, forget + retain + test + holdout))

    def draw_mislabelled(count: int) -> Iterator[Claim]:
        return (Claim(_text(random, each, "fake"), "real") for each in islice(names, count))

    def draw_labelled(count: int) -> Iterator[Claim]:
        return (Claim(_text(random, each, label), label) for each, label in zip(islice(names, count), cycle(LABELS)))

    return Claims(
        forget=tuple(draw_mislabelled(forget)),
        retain=tuple(draw_labelled(retain)),
        test=tuple(draw_labelled(test)),
        holdout=tuple(draw_mislabelled(holdout)),
    )


def _text(random: Random, names: Names, says: Label) -> str:
    return f"{random.choice(_OPENINGS)} {random.choice(_SAYS[says])}".format(
        town=names.town,
        person=names.person,
        company=names.company,
        thing=names.thing,
        day=random.choice(DAYS),
        count=random.randint(12, 980),
    )
