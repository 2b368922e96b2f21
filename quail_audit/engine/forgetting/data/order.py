"""Draw the rows that are asked at random, cut them into blocks, and tell their places in the files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from quail_audit.engine.forgetting.data.types import (
    LABELLED_SETS,
    SPLITS,
    ForgettingData,
    Part,
    Places,
    Questions,
)

T = TypeVar("T")
_Choose = Callable[[str, int], Sequence[int]]  # a set's key and its number of rows -> the rows to keep, in order


def draw_rows(data: ForgettingData, most: int | None, seed: int) -> ForgettingData:
    """Return the rows of each set in an order drawn at random, and only the first so many.

    A file may be sorted by topic, so its first rows stand for nothing. The first rows of a larger draw are those of a
    smaller one by the same seed.

    Args:
        data: as it was read, in the order of the files.
        most: the most rows of each set; None: all. In-context examples are not touched.
        seed: of the order.
    """

    def drawn(of: str, rows: int) -> Sequence[int]:
        return random.Random(f"{seed} {of}").sample(range(rows), rows)[:most]  # noqa: S311 - no secret

    return _chosen(data, drawn)


def block_of(data: ForgettingData, start: int, end: int) -> ForgettingData:
    """Return the rows of each set from one place in the order asked up to another; a set may have none left."""
    return _chosen(data, lambda _, rows: range(min(start, rows), min(end, rows)))


def places_of(data: ForgettingData, metric: str) -> Sequence[int]:
    """Return the place in the data file of each sample of a metric of Quail's own.

    Of membership these are the forget texts and, after all of them, the holdout texts. A metric of another package
    numbers its samples itself: there is a place for none.
    """
    kind, _, split = metric.rpartition("_")
    if metric == "privleak" or kind.startswith("membership"):
        return _joined(data, "texts")
    if kind == "mia" or metric.startswith("mia_"):
        return _joined(data, "labelled")
    if metric.startswith("verbmem_"):
        return _places(data, "continuations", split).rows
    if metric.startswith("knowmem_"):
        return _places(data, "questions", split).rows
    if kind == "nll":
        return _places(data, "texts" if data.texts.get(split) else "continuations", split).rows
    if kind in ("accuracy", "macro_f1", "label_probability"):
        return _places(data, "labelled", split).rows
    return ()


def _joined(data: ForgettingData, part: Part) -> Sequence[int]:
    forget, holdout = _places(data, part, "forget"), _places(data, part, "holdout")
    return (*forget.rows, *(forget.of + place for place in holdout.rows))


def _places(data: ForgettingData, part: Part, of: str) -> Places:
    rows = {
        "continuations": data.continuations.get(of, ()),  # type: ignore[call-overload]
        "questions": data.questions[of].asked if of in data.questions else (),  # type: ignore[index]
        "texts": data.texts.get(of, ()),
        "labelled": data.labelled.get(of, ()),  # type: ignore[call-overload]
    }[part]
    return data.places.get(f"{part}/{of}", Places(range(len(rows)), len(rows)))


def _chosen(data: ForgettingData, choose: _Choose) -> ForgettingData:
    places: dict[str, Places] = {}

    def chosen(part: Part, of: str, rows: Sequence[T]) -> tuple[T, ...]:
        before = _places(data, part, of)
        kept = choose(f"{part}/{of}", len(rows))
        places[f"{part}/{of}"] = Places(tuple(before.rows[row] for row in kept), before.of)
        return tuple(rows[row] for row in kept)

    return replace(
        data,
        continuations={
            of: chosen("continuations", of, data.continuations[of]) for of in SPLITS if of in data.continuations
        },
        questions={
            of: Questions(chosen("questions", of, asked.asked), asked.examples)
            for of in SPLITS
            if (asked := data.questions.get(of)) is not None
        },
        texts={of: chosen("texts", of, rows) for of, rows in data.texts.items()},
        labelled={of: chosen("labelled", of, data.labelled[of]) for of in LABELLED_SETS if of in data.labelled},
        places=places,
    )
