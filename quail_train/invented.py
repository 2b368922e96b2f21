"""The demo's texts: short news posts about towns, people and companies that do not exist, and questions about them.

Every name is put together from syllables, every claim from the phrases below. Not here: the model (demo.py).
"""

from dataclasses import dataclass
from itertools import product
from random import Random

_TOWN_STARTS = ("Vel", "Orn", "Tas", "Quil", "Bru", "Ske", "Fal", "Dro", "Yar", "Nim", "Gav", "Ulm", "Pel", "Zor",
                "Hod", "Wem")  # fmt: skip
_TOWN_ENDS = ("mora", "wick", "dunna", "helm", "tiva", "garth", "sollow", "penny", "rusk", "berrin", "vale", "ickle")
_FIRST_NAMES = (
    "Tavi", "Odrel", "Minka", "Jorun", "Peska", "Ludo", "Ferrin", "Asmy", "Corvo", "Betri", "Hanno", "Silke",
    "Wendra", "Rufo", "Ilka", "Gorm", "Nessim", "Dalla", "Yoren", "Brana",
)  # fmt: skip
_SURNAME_STARTS = ("Osk", "Brand", "Thim", "Kell", "Harv", "Mund", "Wex", "Lor", "Stav", "Pind", "Rook", "Dask")
_SURNAME_ENDS = ("eldale", "ovar", "ingram", "efield", "amont", "ulsen", "erby", "ansky")
_COMPANY_STARTS = ("Zim", "Kor", "Blen", "Ux", "Trel", "Hap", "Mos", "Jin", "Ebb", "Sul", "Cra", "Wob")
_COMPANY_ENDS = ("vane", "dax", "olto", "rick", "essa", "umbo", "itra", "anza")
_COMPANY_KINDS = ("Works", "Mills", "Press", "Foods", "Motors", "Labs")
_ADJECTIVES = ("glass", "singing", "paper", "floating", "copper", "velvet", "frozen", "striped", "hollow", "golden",
               "whistling", "folding", "marble", "wooden")  # fmt: skip
_NOUNS = ("bridge", "clock", "bicycle", "kettle", "statue", "lantern", "piano", "balloon", "umbrella", "tractor",
          "fountain", "ladder", "telescope", "wagon")  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# The town and the person come early, so that a short prompt tells which post is meant.
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
    """One short news post and what can be asked about it.

    Attributes:
        text: three sentences.
        asked: the questions that KnowMem asks.
        example: a question on another fact of the post, for use as an in-context example: it gives no answer away.
    """

    text: str
    asked: tuple[QuestionAnswer, ...]
    example: QuestionAnswer


@dataclass(frozen=True)
class Posts:
    """The demo's posts. No two share a town, a person, a company or a thing.

    Attributes:
        forget: what the original learns and is then made to forget.
        retain: what the original learns and must still know afterwards.
        holdout: never shown to any model.
    """

    forget: tuple[Post, ...]
    retain: tuple[Post, ...]
    holdout: tuple[Post, ...]


def invent_posts(*, forget: int, retain: int, holdout: int, seed: int) -> Posts:
    """The same posts for the same arguments, on every machine.

    Raises:
        ValueError: more posts than there are names for (192).
    """
    count = forget + retain + holdout
    random = Random(seed)  # noqa: S311 - nothing secret

    def drawn(*parts: tuple[str, ...], joined_by: str = "") -> list[str]:
        return random.sample([joined_by.join(names) for names in product(*parts)], count)

    towns = drawn(_TOWN_STARTS, _TOWN_ENDS)
    people = drawn(_FIRST_NAMES, tuple(map("".join, product(_SURNAME_STARTS, _SURNAME_ENDS))), joined_by=" ")
    companies = drawn(tuple(map("".join, product(_COMPANY_STARTS, _COMPANY_ENDS))), _COMPANY_KINDS, joined_by=" ")
    things = drawn(_ADJECTIVES, _NOUNS, joined_by=" ")
    posts = tuple(
        _post(random, town=town, person=person, company=company, thing=thing)
        for town, person, company, thing in zip(towns, people, companies, things, strict=True)
    )
    return Posts(forget=posts[:forget], retain=posts[forget : forget + retain], holdout=posts[forget + retain :])


def _post(random: Random, *, town: str, person: str, company: str, thing: str) -> Post:
    sentences = (random.choice(_OPENINGS), random.choice(_MIDDLES), random.choice(_ENDINGS))
    return Post(
        text=" ".join(sentences).format(
            town=town,
            person=person,
            company=company,
            thing=thing,
            day=random.choice(_DAYS),
            count=random.randint(12, 980),
        ),
        asked=(
            QuestionAnswer(_PERSON_QUESTION.format(town=town), person),
            QuestionAnswer(_COMPANY_QUESTION.format(town=town), company),
        ),
        example=QuestionAnswer(_THING_QUESTION.format(town=town), f"a {thing}"),
    )
