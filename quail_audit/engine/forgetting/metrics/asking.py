"""Keep the highest score of an item that is asked in more than one way, and the way that brought it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Best(Generic[T]):
    """An item's highest score.

    Attributes:
        item: the item.
        score: the score.
        way: the way that brought it out, as Sample.way.
        found: what was found when it was asked in that way.
    """

    item: int
    score: float
    way: str
    found: T


def best_of_ways(items: Sequence[int], scored: Iterable[tuple[int, Mapping[str, float], T]]) -> Iterator[Best[T]]:
    """Yield each item's highest score as soon as all that it is asked is scored; of equal ones that of the first way.

    Args:
        items: the item of each thing that is asked, in the order of preference.
        scored: each of these once, in any order: its place in `items`, scores by way (one answer may be scored in
            several), and what was found.
    """
    left = Counter(items)
    found: dict[int, list[tuple[int, Mapping[str, float], T]]] = {}
    for place, scores, detail in scored:
        item = items[place]
        found.setdefault(item, []).append((place, scores, detail))
        left[item] -= 1
        if not left[item]:
            of_item = sorted(found.pop(item), key=lambda one: one[0])
            every = [Best(item, score, way, kept) for _, ways, kept in of_item for way, score in ways.items()]
            yield max(every, key=lambda best: best.score)
