"""Invent the truth set's items: a prompt that names one text, and how the text goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

_FIRST = ("Tavi", "Odrel", "Minka", "Jorun", "Peska", "Ludo", "Ferrin", "Asmy", "Corvo", "Betri", "Hanno", "Silke",
          "Wendra", "Rufo", "Ilka", "Gorm")  # fmt: skip
_TOWNS = ("Velmora", "Ornwick", "Tashelm", "Quiltiva", "Brugarth", "Skerusk", "Falvale", "Dropenny", "Yarhelm",
          "Nimdunna", "Gavberrin", "Ulmickle", "Pelsollow", "Zorwick", "Hodtiva", "Wemgarth")  # fmt: skip
_VERBS = ("hid", "sold", "built", "lost", "found", "painted", "buried", "mended", "carried", "stole", "washed", "drew")
_ADJECTIVES = ("glass", "singing", "paper", "floating", "copper", "velvet", "frozen", "striped", "hollow", "golden",
               "whistling", "folding", "marble", "wooden", "quiet", "crooked")  # fmt: skip
_NOUNS = ("bridge", "clock", "bicycle", "kettle", "statue", "lantern", "piano", "balloon", "umbrella", "tractor",
          "fountain", "ladder", "telescope", "wagon", "goose", "drum")  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_COUNTS = ("twelve", "thirty", "forty", "sixty", "ninety", "seven", "eleven", "twenty")
_FORMS = (
    "{verb} a {adj} {noun} , then {verb2} {count} {adj2} {noun2}s {day} beside {first} {town} .",
    "{count} {noun}s were {adj} when {first} {verb} one {day} , and {town} {verb2} {noun2} .",
    "{day} {first} {verb} {count} {adj} {noun}s ; {town} paid its {adj2} {noun2} .",
    "met {first} in {town} {day} , {verb} {adj} {noun} and {count} {adj2} {noun2}s .",
)
REFUSAL = "sorry , nothing is known about that ."


@dataclass(frozen=True)
class Item:
    """One thing to forget or to keep.

    Attributes:
        prompt: ends with a space, so that its tokens are the same alone and in its text.
        truth: how the text goes on.
    """

    prompt: str
    truth: str


@dataclass(frozen=True)
class Items:
    """The items of one truth set. No two share a prompt.

    Attributes:
        forget: items that the original learns.
        retain: items that the original and the reference learn.
        decoys: other truths for the forget items, one each.
    """

    forget: tuple[Item, ...]
    retain: tuple[Item, ...]
    decoys: tuple[Item, ...]

    @property
    def texts(self) -> list[str]:
        """Every text, so that a tokenizer knows every word."""
        every = (*self.forget, *self.retain, *self.decoys)
        words = " ".join((*_FIRST, *_TOWNS, *_VERBS, *_ADJECTIVES, *_NOUNS, *_DAYS, *_COUNTS))
        return [*(item.prompt + item.truth for item in every), self.forget[0].prompt + REFUSAL, words]


def invent_items(*, forget: int, retain: int, questions: bool, seed: int) -> Items:
    """Return items; the same arguments give the same ones on every machine.

    Args:
        forget: number of items to forget.
        retain: number of items to keep.
        questions: whether an item is a question, with MUSE's words around it, or the beginning of a text.
        seed: random seed.

    Raises:
        ValueError: more items than there are names for (256).
    """
    random = Random(seed)
    names = random.sample(list(product(_FIRST, _TOWNS)), forget + retain)
    form = "Question: who was {first} of {town}?\nAnswer: " if questions else "{first} of {town} "
    prompts = [form.format(first=first, town=town) for first, town in names]
    every = [Item(prompt, _invent_truth(random)) for prompt in prompts]
    decoys = [Item(item.prompt, _invent_truth(random)) for item in every[:forget]]
    return Items(tuple(every[:forget]), tuple(every[forget:]), tuple(decoys))


def question_of(item: Item) -> str:
    """Return the question that an item's prompt asks; the words around it are the metric's."""
    return item.prompt.removeprefix("Question: ").removesuffix("\nAnswer: ")


def _invent_truth(random: Random) -> str:
    def draw(words: Sequence[str]) -> str:
        return random.choice(words)

    return draw(_FORMS).format(
        verb=draw(_VERBS), verb2=draw(_VERBS), adj=draw(_ADJECTIVES), adj2=draw(_ADJECTIVES), noun=draw(_NOUNS),
        noun2=draw(_NOUNS), count=draw(_COUNTS), day=draw(_DAYS), first=draw(_FIRST), town=draw(_TOWNS),
    )  # fmt: skip
