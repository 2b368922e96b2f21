"""Draw the live view of a training: steps, curves of the loss and its terms, scores."""

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.runs.state.training import TrainingState

CURVE_COLUMNS = 40
_BARS = "▁▂▃▄▅▆▇█"


def view(state: TrainingState, *, since_last_event_s: float = 0.0) -> RenderableType:
    """Return the view of a training's state."""
    parts: list[RenderableType] = [_header(state, since_last_event_s)]
    if state.steps:
        parts.extend((_progress(state), _terms(state)))
    if state.evals:
        parts.append(scores(state))
    if state.end is None and state.saved and state.saved[-1].final:
        parts.append(Text(" the result is saved; auditing it", style="dim"))
    elif state.notes and state.end is None:
        parts.append(Text(f" {printable(state.notes[-1])}", style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _header(state: TrainingState, since_last_event_s: float) -> Text:
    if state.started is None:
        return Text(" waiting for the run to start", style="dim")
    request = state.started.request
    left = state.remaining_s
    remaining = f"  ~{wording.duration(max(0.0, left - since_last_event_s))} left" if left is not None else ""
    layers = f"  {len(state.plan.layers)} layers" if state.plan else ""
    return Text.assemble(
        (" Quail ", "bold"),
        printable(f"{request.unlearned if request.init == 'unlearned' else request.original} → {request.out}"),
        (f"  {request.objective}{layers}  {wording.duration(state.at_s + since_last_event_s)}{remaining}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _progress(state: TrainingState) -> RenderableType:
    last = state.steps[-1]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=20)
    grid.add_column(width=CURVE_COLUMNS)
    grid.add_column()
    grid.add_row(
        " steps",
        ProgressBar(last.total, last.step, width=CURVE_COLUMNS),
        f"{last.step} / {last.total}, epoch {last.epoch:.1f}",
    )
    return grid


def _terms(state: TrainingState) -> RenderableType:
    """Return each term of the loss: its value now, and its course so far."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=20)
    grid.add_column(width=CURVE_COLUMNS, no_wrap=True)
    grid.add_column(justify="right")
    last = state.steps[-1]
    grid.add_row(" loss", curve([step.loss for step in state.steps]), f"{last.loss:.4g}")
    for name in last.terms:
        values = [step.terms[name] for step in state.steps if name in step.terms]
        grid.add_row(f"   {name}", curve(values), f"{last.terms[name]:.4g}")
    if last.hinge_satisfied is not None:
        satisfied = [step.hinge_satisfied for step in state.steps if step.hinge_satisfied is not None]
        grid.add_row("   margin reached", curve(satisfied), f"{100 * last.hinge_satisfied:.1f} %")
    return grid


def curve(values: Sequence[float], columns: int = CURVE_COLUMNS) -> str:
    """Draw values over time as a line of bars: means of equal stretches, from the lowest to the highest mean."""
    if not values:
        return ""
    columns = min(columns, len(values))
    edges = [round(i * len(values) / columns) for i in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low
    return "".join(_BARS[round((mean - low) / span * (len(_BARS) - 1)) if span > 0 else 0] for mean in means)


def scores(state: TrainingState) -> RenderableType:
    """Return a table of the first and the last scores, metric by metric."""
    first, last = state.evals[0], state.evals[-1]
    precisions = list(dict.fromkeys(p for found in last.scores.values() for p in found))
    table = Table(box=None, pad_edge=True, show_edge=False)
    table.add_column("", no_wrap=True)
    for precision in precisions:
        table.add_column(printable(precision), justify="right", no_wrap=True)
    for metric, found in last.scores.items():
        cells = []
        for precision in precisions:
            before = first.scores.get(metric, {}).get(precision) if len(state.evals) > 1 else None
            cells.append(_change(before, found.get(precision), metric))
        table.add_row(printable(wording.metric_title(metric)), *cells)
    return table


def _change(before: float | None, after: float | None, metric: str) -> str:
    shown = wording.value_text(after, metric)
    return shown if before is None or after is None else f"{wording.value_text(before, metric)} → {shown}"
