"""Hold one metric's scores at one scheme: a row for each sample, a column for each arm.

It grows as samples are scored; rows keep their place. Texts stay in the run's folder.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict

import numpy as np

from quail_audit.reports import wording
from quail_audit.schema.report import FULL, arm_at
from quail_audit.tui.live.run import AnswersOf, LiveRun

CAME_BACK = "came back"
BY_NUMBER = "number"
LEAK = "▲"  # beside the colour of a sample that came back
LEAST_FORGOTTEN_POINTS = 5.0  # below it, as a policy has it by default, there was nothing to forget
LEAST_FORGOTTEN_NATS = 0.5
NOT_ANSWERED = -1  # no event begins there


class SampleScores:
    """Scores as they come in.

    Args:
        run: the run of the samples.
        metric: one of its metrics.
        scheme: of the rounded arms.

    Attributes:
        numbers: each row's place in the data file, from 0; rows are in the order in which they came.
        arms: the columns, in the order of LiveRun.arms.
    """

    def __init__(self, run: LiveRun, metric: str, scheme: str) -> None:
        self.metric = metric
        self.scheme = scheme
        self.numbers: list[int] = []
        self.arms: tuple[str, ...] = ()
        self._run = run
        self._rows: dict[int, int] = {}  # number -> row
        self._scores: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._offsets: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self._seen: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def take_in(self) -> bool:
        """Add what has been scored since the last time; return whether anything was."""
        self.arms = self._run.arms(self.scheme)
        before = dict(self._seen)
        for arm in self.arms:
            samples = self._run.samples.get((self.metric, arm))
            if samples is None:
                continue
            scores, offsets = self._scores[arm], self._offsets[arm]
            for index in range(self._seen.get(arm, 0), len(samples.offsets)):
                row = self._row_of(samples.numbers[index])
                missing = row + 1 - len(scores)
                if missing > 0:
                    scores.extend([math.nan] * missing)
                    offsets.extend([NOT_ANSWERED] * missing)
                scores[row], offsets[row] = samples.scores[index], samples.offsets[index]
            self._seen[arm] = len(samples.offsets)
        return self._seen != before

    def _row_of(self, number: int) -> int:
        row = self._rows.setdefault(number, len(self.numbers))
        if row == len(self.numbers):
            self.numbers.append(number)
        return row

    def score(self, row: int, arm: str) -> float | None:
        """Return a score; None if the arm has not answered yet."""
        scores = self._scores[arm]
        return scores[row] if row < len(scores) and not math.isnan(scores[row]) else None

    def came_back(self, row: int) -> float | None:
        """Return how much better the unlearned model knows the sample if rounded; None: not yet known.

        In the metric's unit. Positive if it came back, also for a loss, which then falls.
        """
        full, rounded = self.score(row, f"unlearned/{FULL}"), self.score(row, arm_at("unlearned", self.scheme))
        if full is None or rounded is None:
            return None
        return full - rounded if low_is_known(self.metric) else rounded - full

    def leaks(self, row: int) -> bool:
        """Return whether over half of what was forgotten of this sample came back, if there was enough to forget."""
        came_back, original = self.came_back(row), self.score(row, f"original/{FULL}")
        unlearned = self.score(row, f"unlearned/{FULL}")
        if came_back is None or original is None or unlearned is None or self.metric.endswith("_retain"):
            return False
        forgotten = unlearned - original if low_is_known(self.metric) else original - unlearned
        enough = LEAST_FORGOTTEN_NATS if self.metric.startswith("nll") else LEAST_FORGOTTEN_POINTS
        return forgotten >= enough and came_back > forgotten / 2

    def answers(self, row: int) -> AnswersOf:
        """Return a row's answers, for LiveRun.texts."""
        offsets = {arm: self._offsets[arm][row] for arm in self.arms if row < len(self._offsets[arm])}
        return AnswersOf(
            number=self.numbers[row],
            scores={arm: score for arm in self.arms if (score := self.score(row, arm)) is not None},
            offsets={arm: offset for arm, offset in offsets.items() if offset != NOT_ANSWERED},
        )

    def orders(self) -> tuple[str, ...]:
        """Return the orders that rows can be sorted by."""
        return (CAME_BACK, BY_NUMBER, *self.arms)

    def sorted_rows(self, order: str) -> list[int]:
        """Sort rows by one of orders(): most came back first, or best known first; unknown ones last."""
        numbers = np.array(self.numbers, dtype=np.int64)
        if order == BY_NUMBER:
            return [int(row) for row in np.argsort(numbers, kind="stable")]
        if order == CAME_BACK:
            known = self._column(arm_at("unlearned", self.scheme)) - self._column(f"unlearned/{FULL}")
        else:
            known = self._column(order)
        if low_is_known(self.metric):
            known = -known
        unknown_last = np.where(np.isnan(known), np.inf, -known)
        return [int(row) for row in np.lexsort((numbers, unknown_last))]

    def _column(self, arm: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        column = np.full(len(self.numbers), np.nan)
        scores = self._scores[arm]
        column[: len(scores)] = scores
        return column


def low_is_known(metric: str) -> bool:
    """Return whether a low score means a known text: losses, and places in the AUC of membership inference."""
    return metric.startswith(("nll", "privleak", "mia", "membership"))


def has_answers(metric: str) -> bool:
    """Return whether models write answers for a metric; otherwise it comes from probabilities of a text."""
    return not low_is_known(metric) and not scores_truth(metric)


def scores_truth(metric: str) -> bool:
    """Return whether a metric scores the tokens of the truth itself, in one pass over prompt and truth."""
    scores = ("_probability_forget", "_extraction_strength_forget", "_exact_memorization_forget")
    return metric.startswith(("verbmem", "knowmem")) and metric.endswith(scores)


def figure(value: float | None, metric: str) -> str:
    """Write a score as every screen and report does."""
    if value is None:
        return wording.UNKNOWN
    return f"{value:.2f}" if metric.startswith("nll") else f"{value:.1f}"


def change(value: float | None, metric: str) -> str:
    """Write what came back, with its sign."""
    if value is None:
        return wording.UNKNOWN
    shown = f"{value:+.2f}" if metric.startswith("nll") else f"{value:+.1f}"
    return shown.replace("-", "−") if float(shown) else shown[1:]


def came_back_in_words(value: float | None, metric: str, scheme: str) -> str:
    """Say what came back: "came back: +74.0 points"."""
    if value is None:
        return f"not answered at {scheme} yet"
    unit = "nats" if metric.startswith("nll") else "points"
    what = f"{scheme} changes it by" if metric.endswith("_retain") else "came back:"
    return f"{what} {change(value, metric)} {unit}"
