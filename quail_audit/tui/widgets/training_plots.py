"""Draw a training's figures as small curves: loss, terms, hinge, gradient norm, rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.events.training import TrainStep
from quail_audit.tui.theme import palette
from quail_audit.tui.widgets.braille import curve

AXIS_COLUMNS = 9
LEAST_COLUMNS = 32  # of a plot with its axis
LEAST_LINES = 3  # of a plot with its title
MOST_LINES = 12
MOST_POINTS = 4_000  # of a curve; if there are more steps, evenly spaced ones are drawn
TERMS = ("forget", "retain", "hinge", "l1")


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        value: its value at a step; None if it has none.
        shown: writes a value.
    """

    title: str
    value: Callable[[TrainStep], float | None]
    shown: Callable[[float], str]


class TrainingPlots(Static, can_focus=True):
    """One plot for each figure of the steps, over the planned steps."""

    HOW_TO_READ: ClassVar[tuple[str, ...]] = (
        "Each curve spans all planned steps: the empty part is still to do. Its figure is the latest.",
        "forget falls as the model unlearns (gradient ascent may go below 0); retain should stay low.",
        "hinge satisfied: the share of places that have reached the margin; at 100 % the hinge has no effect.",
    )

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self._steps: Sequence[TrainStep] = ()

    def show(self, steps: Sequence[TrainStep]) -> None:
        """Draw the steps so far."""
        self._steps = steps
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        steps = self._steps
        width, height = self.size.width, self.size.height
        series = series_of(steps)
        if not series or width < LEAST_COLUMNS or height < LEAST_LINES:
            self.update(Text("The curves begin with the first step", style=palette.muted_style(self.app)))
            return
        across, lines = grid_of(len(series), width, height)
        columns = width // across
        text = Text(no_wrap=True, overflow="crop")
        thinned = steps[:: max(1, len(steps) // MOST_POINTS)]
        for first in range(0, len(series), across):
            row = series[first : first + across]
            drawn = [self._plot(one, thinned, steps[-1], columns, lines, first + n) for n, one in enumerate(row)]
            for line in zip(*drawn, strict=True):
                text.append_text(Text().join(line)).append("\n")
        self.update(text)

    def _plot(
        self, series: Series, steps: Sequence[TrainStep], last: TrainStep, columns: int, lines: int, number: int
    ) -> list[Text]:
        """Draw a title with the latest figure, then the curve with its largest and least value before it."""
        found = [(step.step, value) for step in steps if (value := series.value(step)) is not None]
        latest = series.value(last)
        style = palette.style(self.app, f"plot-{number % 6 + 1}")
        title = Text(f" {series.title} ", style="bold", no_wrap=True)
        title.append(wording.UNKNOWN if latest is None else series.shown(latest), style=style)
        title.truncate(columns, overflow="ellipsis", pad=True)
        if not found:
            return [title, *(Text(" " * columns) for _ in range(lines - 1))]
        total = max(1, last.total - 1)
        values = [value for _, value in found]
        rows = curve([min(1.0, (step - 1) / total) for step, _ in found], values, columns - AXIS_COLUMNS - 2, lines - 1)
        ends = {0: series.shown(max(values)), lines - 2: series.shown(min(values))}
        drawn = [title]
        for place, row in enumerate(rows):
            axis = f"{ends.get(place, '')[: AXIS_COLUMNS - 1]:>{AXIS_COLUMNS - 1}}"
            line = Text(axis, style=palette.muted_style(self.app), no_wrap=True)
            line.append("▕" if place not in ends else "┤").append(row, style=style)
            line.append("  ")
            drawn.append(line)
        return drawn


def series_of(steps: Sequence[TrainStep]) -> list[Series]:
    """Return the curves: the loss, its terms in one order, then what else the latest step has."""
    if not steps:
        return []
    last = steps[-1]
    terms = [*(term for term in TERMS if term in last.terms), *sorted(last.terms.keys() - set(TERMS))]
    found = [Series("loss", lambda step: step.loss, figure)]
    found += [Series(printable(term, limit=20), _term_series(term), figure) for term in terms]
    if last.hinge_satisfied is not None:
        found.append(Series("hinge satisfied", lambda step: step.hinge_satisfied, _percent))
    if last.gradient_norm is not None:
        found.append(Series("gradient norm", lambda step: step.gradient_norm, figure))
    found.append(Series("learning rate", lambda step: step.learning_rate, figure))
    return found


def _term_series(name: str) -> Callable[[TrainStep], float | None]:
    return lambda step: step.terms.get(name)


def _percent(share: float) -> str:
    """Write a share in percent, never rounded up to 100 %."""
    return ">99 %" if 0.995 <= share < 1.0 else f"{share:.0%}".replace("%", " %")


def figure(value: float) -> str:
    """Write a loss, a norm or a rate in eight characters."""
    if value == 0 or not 0.01 <= abs(value) < 10_000:
        return f"{value:.2g}"
    return f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def grid_of(plots: int, width: int, height: int) -> tuple[int, int]:
    """Return how many plots go side by side, and the lines of each: as square as the room allows."""
    most = max(1, min(plots, width // LEAST_COLUMNS))
    best = (most, LEAST_LINES)
    for across in range(most, 0, -1):
        lines = min(MOST_LINES, height // -(-plots // across))
        if lines < LEAST_LINES:
            break
        best = (across, lines)
        if width // across >= 4 * lines:
            break
    return best
