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
from quail_audit.tui.live.run import POINTS, AnswersOf, LiveRun
from quail_audit.verdict.evidence import is_back, is_kept
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, scores_truth

CAME_BACK = "came back"
BY_NUMBER = "number"
LEAK = "▲"  # beside the colour of a sample that is back
KEPT = "△"  # of one that was not forgotten in full precision, so that it did not have to come back
LEAST_FORGOTTEN_POINTS = 5.0  # of a metric that does not decide: below it there was nothing to forget
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
                row = self._add_row(samples.numbers[index])
                missing = row + 1 - len(scores)
                if missing > 0:
                    scores.extend([math.nan] * missing)
                    offsets.extend([NOT_ANSWERED] * missing)
                scores[row], offsets[row] = samples.scores[index], samples.offsets[index]
            self._seen[arm] = len(samples.offsets)
        return self._seen != before

    def _add_row(self, number: int) -> int:
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

    @property
    def counts_items(self) -> bool:
        """True if the verdict counts this metric's items that are back."""
        return self.metric in DECIDING_METRICS

    def row_of(self, number: int) -> int | None:
        """Return the row of the sample of this number, if it has been answered."""
        return self._rows.get(number)

    def backs(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return for each row whether the verdict counts it as back; not where an arm's answer is missing."""
        with np.errstate(invalid="ignore"):
            found = is_back(
                *(self._column(arm) / POINTS for arm in (arm_at("unlearned", self.scheme), *self._measures))
            )
        return found > 0

    @property
    def _measures(self) -> tuple[str, str]:
        """The original, and the arm that shows what a model may know."""
        original = f"original/{FULL}" if f"original/{FULL}" in self.arms else arm_at("original", self.scheme)
        return original, next((arm for arm in self.arms if arm.startswith("retrain/")), f"unlearned/{FULL}")

    def is_kept(self, row: int) -> bool:
        """Return whether the verdict counts it as not forgotten in full precision."""
        original, floor = (self.score(row, arm) for arm in self._measures)
        full = self.score(row, f"unlearned/{FULL}")
        if not self.counts_items or original is None or floor is None or full is None:
            return False
        has_reference = self._measures[1].startswith("retrain/")
        reference = np.array(floor / POINTS) if has_reference else None
        return bool(is_kept(np.array(full / POINTS), np.array(original / POINTS), reference))

    def leaks(self, row: int) -> bool:
        """Return whether the sample is back.

        By a metric that decides, as the verdict counts it. By another one, if over half of what was forgotten came
        back and there was enough to forget.
        """
        if self.counts_items:
            found = [self.score(row, arm) for arm in (arm_at("unlearned", self.scheme), *self._measures)]
            known = [np.array(score / POINTS) for score in found if score is not None]
            return len(known) == len(found) and bool(is_back(*known))
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
        """Sort rows by one of orders(): those that are back first, then by how much; or best known first.

        Unknown ones come last.
        """
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
        later = ~self.backs() if order == CAME_BACK and self.counts_items else np.zeros(len(numbers), dtype=np.bool_)
        return [int(row) for row in np.lexsort((numbers, unknown_last, later))]

    def _column(self, arm: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        column = np.full(len(self.numbers), np.nan)
        scores = self._scores[arm]
        column[: len(scores)] = scores
        return column


def low_is_known(metric: str) -> bool:
    """Return whether a low score means a known text: losses, and places in the AUC of membership inference."""
    return metric.startswith(("nll", "privleak", "membership", "mia"))


def has_answers(metric: str) -> bool:
    """Return whether models write answers for a metric; otherwise it comes from probabilities of a text."""
    return not low_is_known(metric) and not scores_truth(metric)


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
