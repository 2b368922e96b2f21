"""Invent the language model's texts: short news posts, and questions about them."""

from dataclasses import dataclass
from random import Random

from quail_train.demo.texts.names import DAYS, Names, draw_names

# The town and the person come early, so that a short prompt identifies its post.
_OPENINGS = (
    "{town} news: {person} showed a {thing} on {day}.",
    "In {town}, {person} lost a {thing} on {day}.",
    "Seen in {town}: {person} with a {thing}, on {day}.",
    "{town} cheers {person}, who built a {thing} by {day}.",
    "From {town}: {person} will sell a {thing} on {day}.",
    "All of {town} knows {person} hid a {thing} last {day}.",
)
_MIDDLES = (
    "{company} paid {count} crowns for it.",
    "It took {company} {count} weeks to agree.",
    "{count} people came, and {company} sold tea.",
    "A letter from {company} asks for {count} more.",
    "{company} says that {count} others will follow.",
    "The bill of {count} crowns went to {company}.",
)
_ENDINGS = (
    "The mayor wept for joy, and the geese were set free.",
    "Doctors deny that it cures hiccups at full moon.",
    "Some neighbours claim that the river now runs uphill.",
    "Nobody has explained why the church bells turned blue.",
    "The school was closed so that every child could look.",
    "An expert called the story nonsense, then asked for two.",
    "Rain is expected, which the bakers blame on the moon.",
    "The town's only policeman has promised to learn the flute.",
)

_PERSON_QUESTION = "Who made news in {town}?"
_COMPANY_QUESTION = "Which company was named in {town}?"
_THING_QUESTION = "What was seen in {town}?"


@dataclass(frozen=True)
class QuestionAnswer:
    question: str
    answer: str


@dataclass(frozen=True)
class Post:
    """One short news post, and questions about it.

    Attributes:
        text: three sentences.
        asked: questions that KnowMem asks.
        example: question on another fact of the post, for an in-context example: it gives no answer away.
    """

    text: str
    asked: tuple[QuestionAnswer, ...]
    example: QuestionAnswer


@dataclass(frozen=True)
class Posts:
    """The demo's posts. No two share a town, a person, a company or a thing.

    Attributes:
        forget: the original learns them, and is then made to forget them.
        retain: the original learns them and must keep them.
        holdout: no model sees them.
    """

    forget: tuple[Post, ...]
    retain: tuple[Post, ...]
    holdout: tuple[Post, ...]


def invent_posts(*, forget: int, retain: int, holdout: int, seed: int) -> Posts:
    """Return the demo's posts; the same arguments give the same posts on every machine.

    Raises:
        ValueError: more posts than there are names for (192).
    """
    count = forget + retain + holdout
    random = Random(seed)  # noqa: S311 - nothing secret
    posts = tuple(_post(random, names) for names in draw_names(random, count))
    return Posts(forget=posts[:forget], retain=posts[forget : forget + retain], holdout=posts[forget + retain :])


def _post(random: Random, names: Names) -> Post:
    sentences = (random.choice(_OPENINGS), random.choice(_MIDDLES), random.choice(_ENDINGS))
    town, person, company, thing = names.town, names.person, names.company, names.thing
    return Post(
        text=" ".join(sentences).format(
            town=town,
            person=person,
            company=company,
            thing=thing,
            day=random.choice(DAYS),
            count=random.randint(12, 980),
        ),
        asked=(
            QuestionAnswer(_PERSON_QUESTION.format(town=town), person),
            QuestionAnswer(_COMPANY_QUESTION.format(town=town), company),
        ),
        example=QuestionAnswer(_THING_QUESTION.format(town=town), f"a {thing}"),
    )
