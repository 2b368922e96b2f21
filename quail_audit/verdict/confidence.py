"""Decide if a share is above or within a limit, and give the interval of shares that the items allow.

The decisions are bets (Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 2024,
arXiv 2010.09686). To show that a mean is above 0, start with a capital of 1 and stake a share of it on each value. If
the mean is 0 or less, no way of betting gains on average: the chance that the capital ever reaches 20 is at most 5 %
(Ville's inequality). It assumes nothing but the bounds, holds at every number of items, and however one stops.

A bettor who knew the values would choose one share. This one splits the capital among a few shares in advance and lets
each run, so the result does not depend on the order of the items. Without replacement the mean of what is left is known
ever better, so there the order counts; once every item was asked, nothing is uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

CONFIDENCE = 0.95
ENOUGH = float(-np.log(1 - CONFIDENCE))  # evidence, as a logarithm, that decides one question
_Split = tuple[tuple[float, ...], tuple[float, ...]]
# Shares of the largest bet that cannot ruin, and how the capital is split among them. Against a leak nearly all is on
# the largest: if no item is back, 29 items exclude 10 %, as in the exact binomial test. An item that is back ruins it,
# and the rest, which is spread, needs 92, 127, 150 items for one, two, three back (the exact test: 46, 61, 76, but at
# one number of items that was fixed before).
_WITHIN: _Split = ((0.999, 0.95, 0.8, 0.5, 0.2), (0.97, 0.0075, 0.0075, 0.0075, 0.0075))
_ABOVE: _Split = ((0.95, 0.7, 0.4, 0.2, 0.1, 0.05, 0.02), (1 / 7,) * 7)
_CHUNK = 32  # factors that are multiplied before a logarithm is taken
_HALVINGS = 22
_EQUAL = 1e-9  # sums this near to each other are the same
_LEAST, _MOST = (0.0, -1.0), (1.0, 2.0)  # ends of an interval are looked for between the estimate and these in turn


@dataclass(frozen=True, eq=False)
class Share:
    """A share of what the original has above a floor, by differences of means over the same items.

    Attributes:
        deployed: float64 [..., items], scores from 0 to 1; or, without the others, 1 for each item that counts, else 0.
        original: the items' scores on the original, [..., items].
        floor: their scores on the floor.
        population: the number of items that there are in all, of which these were drawn at random without
            replacement; None if they stand for more of their kind, without an end.

    Raises:
        ValueError: there are no items, or more than the population has.
    """

    deployed: F64
    original: F64 | None = None
    floor: F64 | None = None
    population: int | None = None

    def __post_init__(self) -> None:
        items = self.deployed.shape[-1]
        if items < 1 or (self.population is not None and self.population < items):
            raise ValueError(f"{items} items of {self.population}")

    @property
    def estimate(self) -> F64:
        """The share [...]; it means nothing unless the original is above the floor."""
        if self.original is None or self.floor is None:
            return np.asarray(self.deployed.mean(axis=-1))
        with np.errstate(divide="ignore", invalid="ignore"):
            found: F64 = (self.deployed - self.floor).mean(axis=-1) / (self.original - self.floor).mean(axis=-1)
        return found

    def log_evidence_above(self, limit: F64 | float) -> F64:
        """Return the logarithm of the evidence that the share is above a limit [...]; exp(-it) is a p-value."""
        values, low, _ = self._values(np.asarray(limit, np.float64))
        return _log_capital(values, low, _ABOVE, self.population)

    def log_evidence_within(self, limit: F64 | float) -> F64:
        """Return the logarithm of the evidence that the share is below a limit [...]; exp(-it) is a p-value."""
        values, _, high = self._values(np.asarray(limit, np.float64))
        found = _log_capital(-values, -high, _WITHIN, self.population)
        if self.population == values.shape[-1]:  # all were asked: a share that is not above the limit is within it
            found = np.where(values.sum(axis=-1) <= _EQUAL, np.inf, found)
        return found

    def interval(self, enough_above: F64 | float = ENOUGH, enough_within: F64 | float = ENOUGH) -> tuple[F64, F64]:
        """Return the least and the largest share [...] that the items don't exclude, each at 95 % by itself.

        Ends are looked for between -1 and 2. Between 0 and 1 the evidence only grows away from the estimate; beyond,
        the values' bounds grow with the limit, and the evidence may shrink again.

        Args:
            enough_above, enough_within: the evidence [...], as a logarithm, that excludes a share below, or above.
        """
        middle = np.clip(np.nan_to_num(self.estimate), _LEAST[-1], _MOST[-1])
        low = _last_allowed(self.log_evidence_above, enough_above, middle, _LEAST)
        return low, _last_allowed(self.log_evidence_within, enough_within, middle, _MOST)

    def _values(self, limit: F64) -> tuple[F64, F64, F64]:
        """Return values [..., items] whose mean has the sign of share minus limit, and their least and largest."""
        limits = limit[..., None]
        if self.original is None or self.floor is None:
            return self.deployed - limits, -limit, 1.0 - limit
        values = self.deployed - limits * self.original - (1.0 - limits) * self.floor
        low = -np.maximum(limit, 0.0) - np.maximum(1.0 - limit, 0.0)
        return values, low, 1.0 + np.maximum(-limit, 0.0) + np.maximum(limit - 1.0, 0.0)


def items_needed(items: int, log_evidence: float, enough: float = ENOUGH) -> int | None:
    """Return how many items would decide, if more of them are like these; None if these speak for the other side."""
    return max(items, math.ceil(items * enough / log_evidence)) if log_evidence > 0 else None


def holm(log_evidence: Sequence[float]) -> list[float]:
    """Return the evidence that each of several questions needs, so that one wrong answer among all has at most 5 %.

    Holm's method (A simple sequentially rejective multiple test procedure, 1979): the strongest has to overcome all
    questions, the next one fewer, and where one fails, the rest fail with it.

    Args:
        log_evidence: of each question, as a logarithm.

    Returns:
        For each, in the order given; a question is decided exactly if its evidence reaches it.
    """
    needed = [0.0] * len(log_evidence)
    left, stopped = len(log_evidence), False
    for place in sorted(range(len(log_evidence)), key=lambda place: -log_evidence[place]):
        needed[place] = ENOUGH + math.log(left)
        stopped = stopped or log_evidence[place] < needed[place]
        left -= not stopped
    return needed


def _log_capital(values: F64, low: F64, split: _Split, population: int | None) -> F64:
    """Return the logarithm of the capital of a bettor on a mean above 0, who started with 1.

    Args:
        values: [..., n], each at least `low`.
        low: [...]; at 0 and above, no mean is 0 or less.
        split: shares of the largest bet, and the part of the capital that goes to each.
        population: as in Share.

    Returns:
        [...]; infinite if the mean cannot be 0 or less.
    """
    shares, parts = (np.array(part) for part in split)
    count = values.shape[-1]
    rest = np.zeros_like(values)  # the mean of what is left before each item, if the mean of all is 0
    if population is not None:
        rest = (values - np.cumsum(values, axis=-1)) / (population - np.arange(count))
    room = rest - low[..., None]
    is_impossible = (room < -_EQUAL).any(axis=-1) | (low >= 0)
    if population == count:
        is_impossible |= values.sum(axis=-1) > _EQUAL
    won = np.where(is_impossible[..., None], 0.0, (values - rest) / np.maximum(room, _EQUAL))
    logs = np.stack([_log_product(1.0 + share * np.maximum(won, -1.0)) for share in shares], axis=-1)
    top = logs.max(axis=-1)
    capital = top + np.log((parts * np.exp(logs - top[..., None])).sum(axis=-1))
    return np.where(is_impossible, np.inf, capital)


def _log_product(factors: F64) -> F64:
    """Return the logarithm of the product over the last axis."""
    whole = factors.shape[-1] // _CHUNK * _CHUNK
    chunks = factors[..., :whole].reshape(*factors.shape[:-1], -1, _CHUNK)
    return np.asarray(np.log(chunks.prod(axis=-1)).sum(axis=-1) + np.log(factors[..., whole:]).sum(axis=-1))


def _last_allowed(
    log_evidence: Callable[[F64], F64], enough: F64 | float, middle: F64, ends: tuple[float, float]
) -> F64:
    """Return the limit [...] next to which the evidence begins to exclude, by bisection; the last end if it never does.

    Args:
        log_evidence: of limits [...].
        enough: what excludes one.
        middle: limits [...] that are not excluded.
        ends: limits to look at from there on, one after the other.
    """
    near, far = (_beyond(middle, np.full_like(middle, end), ends) for end in ends)
    is_near, is_far = log_evidence(near) >= enough, log_evidence(far) >= enough
    inside, outside = middle, np.where(is_near, near, far)
    for _ in range(_HALVINGS):
        between = (inside + outside) / 2
        is_excluded = log_evidence(between) >= enough
        inside, outside = np.where(is_excluded, inside, between), np.where(is_excluded, between, outside)
    return np.where(is_near | is_far, inside, far)


def _beyond(middle: F64, end: F64, ends: tuple[float, float]) -> F64:
    """Return an end, or the middle if that lies beyond it."""
    return np.minimum(middle, end) if ends[1] < ends[0] else np.maximum(middle, end)
