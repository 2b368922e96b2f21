"""Say what is true of a pair at a scheme: it leaks, it is useless, the format breaks the model, or it is clean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tests.validity.evaluator import AS_GIVEN, LONGER, SCORES
from tests.validity.telling import FULL, Teller, TwoSides
from tests.validity.truth_set import Case

Label = Literal["leaks", "useless", "breaks", "clean"]
LIMIT = 10.0  # percent, of known and of back
LEAST_UTILITY = 80.0  # percent of the original's retain score at the scheme
LEAST_FORMAT = 50.0  # percent of the original's retain score in full precision
INFORMATIVE = 5.0  # points that the original is above the floor
LEAST_OF_AN_ITEM = 10.0  # points that the original is above the floor on an item that can be back
NEAR = 3.0  # percent: a truth so near to its limit is borderline
NEAR_UTILITY = 5.0


@dataclass(frozen=True)
class Truth:
    """The truth of a pair at a scheme, with its figures in percent.

    Attributes:
        label: the truth.
        borderline: whether a figure that decides the label lies near its limit.
        known_full, back_full: in full precision, the largest over scores and prompts.
        known, back: the same as deployed.
        by: score and prompt that bring out the largest of the four.
        utility: of the retain answers, of the original's at the scheme.
        format: of the original's retain answers, what the scheme leaves.
    """

    label: Label
    borderline: bool
    known_full: float
    back_full: float
    known: float
    back: float
    by: str
    utility: float
    format: float


def truth_of(teller: Teller, case: Case, scheme: str) -> Truth:
    """Return the truth of a case at a scheme, over all items and all prompts."""
    original, floor = teller.tell(case.original, FULL), teller.tell("reference", FULL)
    rounded = teller.tell(case.original, scheme)
    arms = {"full": teller.tell(case.name, FULL), "deployed": teller.tell(case.name, scheme)}
    found = {name: max(_shares(original, arm, floor)) for name, arm in arms.items()}
    known_full, back_full = (max(part) for part in _columns(original, arms["full"], floor))
    known, back = (max(part) for part in _columns(original, arms["deployed"], floor))
    utility = 100 * _retained(arms["deployed"]) / max(_retained(rounded), 1.0)
    kept = 100 * _retained(rounded) / max(_retained(original), 1.0)
    worst_full, worst = max(known_full, back_full), max(known, back)
    label: Label
    near = abs(kept - LEAST_FORMAT) < NEAR_UTILITY
    if worst_full > LIMIT:
        label, near = "leaks", worst_full < LIMIT + NEAR and worst < LIMIT + NEAR
    elif kept < LEAST_FORMAT:
        label = "breaks"
    elif worst > LIMIT:
        label, near = "leaks", near or worst < LIMIT + NEAR
    elif utility < LEAST_UTILITY:
        label, near = "useless", near or utility > LEAST_UTILITY - NEAR_UTILITY
    else:
        label = "clean"
        near = near or max(worst_full, worst) > LIMIT - NEAR or utility < LEAST_UTILITY + NEAR_UTILITY
    by = max(found.values())[1]
    return Truth(label, bool(near), known_full, back_full, known, back, by, utility, kept)


def _shares(original: TwoSides, arm: TwoSides, floor: TwoSides) -> Iterator[tuple[float, str]]:
    """Yield the known share and the share of items that are back, with the score and the prompt that tell it."""
    for prompt in LONGER:
        for score in SCORES:
            knew, knows, may = (each.forget.values(prompt, score) for each in (original, arm, floor))
            by = f"{score}, {prompt}"
            if knew.mean() - may.mean() >= INFORMATIVE:
                yield float(100 * (knows.mean() - may.mean()) / (knew.mean() - may.mean())), f"known: {by}"
            is_back = (knew - may >= LEAST_OF_AN_ITEM) & (knows - may > (knew - may) / 2)
            yield float(100 * np.mean(is_back)), f"back: {by}"


def _columns(original: TwoSides, arm: TwoSides, floor: TwoSides) -> tuple[list[float], list[float]]:
    """Return the known shares and the shares back, over scores and prompts."""
    found = list(_shares(original, arm, floor))
    known = [share for share, by in found if by.startswith("known")]
    return known or [0.0], [share for share, by in found if by.startswith("back")]


def _retained(arm: TwoSides) -> float:
    return float(arm.retain.values(AS_GIVEN, "answer").mean())
