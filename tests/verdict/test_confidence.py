"""Confidence: equal to a plain bettor, exact at the ends, and right as often as it says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from quail_audit.verdict.confidence import ENOUGH, Share, items_needed

F64 = npt.NDArray[np.float64]


def plain_capital(values: list[float], low: float, bets: list[tuple[float, float]], population: int | None) -> float:
    """One bettor for each bet, one item after another."""
    total = 0.0
    for share, part in bets:
        capital, seen = part, 0.0
        for place, value in enumerate(values):
            rest = 0.0 if population is None else -seen / (population - place)
            if rest - low < -1e-9:
                return math.inf
            capital *= 1 + share * max(-1.0, (value - rest) / max(rest - low, 1e-9))
            seen += value
        total += capital
    return total


WITHIN = [(0.999, 0.97), (0.95, 0.0075), (0.8, 0.0075), (0.5, 0.0075), (0.2, 0.0075)]
ABOVE = [(share, 1 / 7) for share in (0.95, 0.7, 0.4, 0.2, 0.1, 0.05, 0.02)]


@pytest.mark.parametrize("population", [None, 80, 1000])
@pytest.mark.parametrize("limit", [-0.3, 0.0, 0.1, 0.5, 1.0, 1.7])
def test_the_evidence_is_that_of_a_plain_bettor(limit: float, population: int | None) -> None:
    drawn = np.random.default_rng(7).random((3, 70))
    share = Share(drawn[0], drawn[1], drawn[2] * 0.4, population=population)
    values = [a - limit * o - (1 - limit) * f for a, o, f in zip(drawn[0], drawn[1], drawn[2] * 0.4, strict=True)]
    corners = [a - limit * o - (1 - limit) * f for a in (0, 1) for o in (0, 1) for f in (0, 1)]

    above = plain_capital(values, min(corners), ABOVE, population)
    within = plain_capital([-value for value in values], -max(corners), WITHIN, population)

    assert math.exp(share.log_evidence_above(limit)) == pytest.approx(above, rel=1e-9)
    assert math.exp(share.log_evidence_within(limit)) == pytest.approx(within, rel=1e-9)


@pytest.mark.parametrize(("items", "excluded"), [(6, 0.39), (29, 0.10)])
def test_nothing_back_excludes_what_the_exact_test_excludes(items: int, excluded: float) -> None:
    low, high = Share(np.zeros(items)).interval()

    assert low == 0.0
    assert high == pytest.approx(1 - 0.05 ** (1 / items), abs=0.002)
    assert round(float(high), 2) == excluded


@pytest.mark.parametrize(("back", "needed"), [(0, 29), (1, 92), (2, 127), (3, 150)])
def test_items_that_exclude_a_tenth(back: int, needed: int) -> None:
    def decides(items: int) -> bool:
        return bool(Share(np.repeat([1.0, 0.0], [back, items - back])).log_evidence_within(0.1) >= ENOUGH)

    assert decides(needed)
    assert not decides(needed - 1)


def test_the_number_of_items_needed_is_told_from_those_at_hand() -> None:
    assert items_needed(6, float(Share(np.zeros(6)).log_evidence_within(0.1))) in (29, 30)
    assert items_needed(10, -0.5) is None
    assert items_needed(40, 2 * ENOUGH) == 40


@pytest.mark.parametrize(("back", "is_above"), [(9, False), (10, False), (11, True)])
def test_a_population_that_was_asked_whole_is_known_exactly(back: int, is_above: bool) -> None:
    share = Share(np.repeat([1.0, 0.0], [back, 100 - back]), population=100)

    assert (share.log_evidence_above(0.1) == np.inf) == is_above
    assert (share.log_evidence_within(0.1) == np.inf) != is_above
    assert share.interval() == (pytest.approx(back / 100, abs=1e-6), pytest.approx(back / 100, abs=1e-6))


def test_most_of_a_population_says_more_than_as_many_of_an_endless_one() -> None:
    scores = np.random.default_rng(3).permutation(np.repeat([1.0, 0.0], [4, 76]))

    assert Share(scores, population=90).interval()[1] < Share(scores).interval()[1]


@pytest.mark.parametrize("population", [None, 60])
@pytest.mark.parametrize("seed", range(5))
def test_a_decision_never_disagrees_with_the_interval(seed: int, population: int | None) -> None:
    drawn = np.random.default_rng(seed).random((3, 50))
    share = Share(drawn[0] * 0.6, 0.5 + drawn[1] / 2, drawn[2] * 0.5, population=population)
    low, high = share.interval()

    assert low <= share.estimate <= high
    for limit in np.linspace(-1, 2, 61):
        assert (share.log_evidence_above(limit) >= ENOUGH) == (limit < low)
        assert (share.log_evidence_within(limit) >= ENOUGH) == (limit > high)


def test_many_arms_are_told_at_once() -> None:
    drawn = np.random.default_rng(1).random((4, 3, 25))
    together = Share(drawn[0], drawn[1] / 2 + 0.5, drawn[2] / 4).interval()
    alone = [[Share(*(part[i] for part in (drawn[0], drawn[1] / 2 + 0.5, drawn[2] / 4))).interval()] for i in range(3)]

    for i in range(3):
        assert (together[0][i], together[1][i]) == pytest.approx(alone[i][0])


def test_no_items_and_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="0 items"):
        Share(np.zeros(0))
    with pytest.raises(ValueError, match="5 items of 4"):
        Share(np.zeros(5), population=4)


POPULATIONS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], F64], float]] = {
    "2 % back": (lambda rng, size: (rng.random(size) < 0.02).astype(float), 0.02),
    "5 % back": (lambda rng, size: (rng.random(size) < 0.05).astype(float), 0.05),
    "10 % back": (lambda rng, size: (rng.random(size) < 0.1).astype(float), 0.1),
    "25 % back": (lambda rng, size: (rng.random(size) < 0.25).astype(float), 0.25),
    "50 % back": (lambda rng, size: (rng.random(size) < 0.5).astype(float), 0.5),
    "beta": (lambda rng, size: rng.beta(0.2, 1.8, size), 0.1),
    "a few whole texts among low scores": (
        lambda rng, size: np.where(rng.random(size) < 0.08, 1.0, 0.2 * rng.random(size)),
        0.08 + 0.92 * 0.1,
    ),
    "constants": (lambda rng, size: np.full(size, 0.1), 0.1),
    "ties at the limit": (lambda rng, size: np.where(rng.random(size) < 0.9, 0.1, rng.choice([0.0, 0.2], size)), 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("items", [2, 6, 12, 24, 50, 100, 200, 400])
@pytest.mark.parametrize("name", POPULATIONS)
def test_the_interval_holds_the_truth_as_often_as_it_says(name: str, items: int) -> None:
    """At a fixed number of items, and at the first decision against the truth itself as the limit."""
    draw, truth = POPULATIONS[name]
    runs = 1000
    scores = draw(np.random.default_rng(items), (runs, items))
    one, none = np.ones_like(scores), np.zeros_like(scores)
    shares = {"counts": Share(scores)} if "back" in name else {}
    shares["scores"] = Share(scores, one, none)
    allowed = 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / runs)  # 0.05 % by chance, as there are 136 cells
    for share in shares.values():
        low, high = share.interval()
        assert 1 - np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)) <= allowed

        ever = np.zeros((2, runs), bool)
        for count in range(1, items + 1):
            part = (
                Share(scores[:, :count])
                if share.original is None
                else Share(scores[:, :count], one[:, :count], none[:, :count])
            )
            ever[0] |= part.log_evidence_above(truth + 1e-9) >= ENOUGH
            ever[1] |= part.log_evidence_within(truth - 1e-9) >= ENOUGH
        assert ever.mean(axis=1).max() <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("items", [10, 30, 60, 100])
def test_a_sample_of_a_population_holds_its_mean_as_often_as_it_says(items: int) -> None:
    rng = np.random.default_rng(items)
    whole = (np.arange(100) < 10).astype(float)
    drawn = np.stack([rng.permutation(whole)[:items] for _ in range(400)])
    low, high = Share(drawn, population=100).interval()

    assert np.mean((low > 0.1 + 1e-6) | (high < 0.1 - 1e-6)) <= 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / 400)
