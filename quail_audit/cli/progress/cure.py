"""Draw the live view of a cure: how far it is, and what the last step found."""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.text.cure import carried_line, fall_line, point_line, unit_line
from quail_audit.runs.state.cure import CureState
from quail_audit.schema.requests import AttributeRequest, CureRequest, RecipeRequest

BAR_COLUMNS = 40


def view(state: CureState, *, since_last_event_s: float = 0.0) -> RenderableType:
    """Return the view of a cure's state."""
    if state.started is None:
        return Text(" waiting for the run to start", style="dim")
    parts: list[RenderableType] = [
        Text.assemble(
            (" Quail ", "bold"),
            printable(headline(state.started.request)),
            (f"  {wording.duration(state.at_s + since_last_event_s)}", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
    ]
    if state.attributed is not None:
        parts.append(Text(f" {fall_line(state.attributed)}", style="dim"))
    if state.units:
        parts.append(Text(f" {printable(unit_line(state.units[-1]))}", style="dim", no_wrap=True, overflow="ellipsis"))
    if state.points:
        parts.append(Text(f" {point_line(state.points[-1])}", style="dim"))
    if state.carried:
        last = state.carried[-1]
        parts.append(_bar("layers", last.index, last.total))
        parts.append(Text(f" {printable(carried_line(last))}", style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def headline(request: CureRequest) -> str:
    """Return a cure's request on one line."""
    if isinstance(request, AttributeRequest | RecipeRequest):
        return f"{request.cure}, {request.scheme}: {request.run}"
    return f"{request.cure}, {request.way}, {request.scheme}: {request.unlearned} → {request.out}"


def _bar(title: str, done: int, total: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=20)
    grid.add_column(width=BAR_COLUMNS)
    grid.add_column()
    grid.add_row(f" {title}", ProgressBar(total, done, width=BAR_COLUMNS), f"{done} / {total}")
    return grid
