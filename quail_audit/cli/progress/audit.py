"""Draw the live view of an audit: layers measured, scores as they come, remaining time."""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.findings import metrics_in_order
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.report import FULL, STATES_BY_RISK

SCHEMES_IN_FULL = 2  # with more, only the layers and scores of the scheme at work are shown, to fit on a screen
METRICS_IN_VIEW = 10  # those that decide come first


def view(state: AuditState, *, since_last_event_s: float = 0.0) -> RenderableType:
    """Return the view of an audit's state."""
    parts: list[RenderableType] = [_header(state, since_last_event_s)]
    if state.plan is not None:
        parts.append(_progress(state))
    if state.awaiting is not None:
        parts.append(Text(f" {wording.hashing_line(state.awaiting)}", style="dim"))
    parts.extend(_layer_lines(state))
    if state.running or state.scores:
        parts.append(_scores(state))
    if state.last_sample is not None and state.end is None:
        sample = state.last_sample
        way = f"({printable(sample.way)}) " if sample.way else ""
        text = f" {sample.score:5.1f}  {way}…{printable(sample.prompt[-40:])} → {printable(sample.answer, limit=200)}"
        parts.append(Text(text, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _header(state: AuditState, since_last_event_s: float) -> Text:
    if state.started is None:
        return Text(" waiting for the run to start", style="dim")
    request = state.started.request
    left = state.remaining_s
    remaining = f"  ~{wording.duration(max(0.0, left - since_last_event_s))} left" if left is not None else ""
    return Text.assemble(
        (" Quail ", "bold"),
        printable(f"{request.original} → {request.unlearned}"),
        (f"  {' '.join(request.schemes)}  {wording.duration(state.at_s + since_last_event_s)}{remaining}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _progress(state: AuditState) -> RenderableType:
    assert state.plan is not None  # noqa: S101 - the caller asked
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=20)
    grid.add_column(width=30)
    grid.add_column()
    grid.add_row(
        " layers",
        ProgressBar(state.plan.layers, state.layers_done, width=30),
        f"{state.layers_done} / {state.plan.layers}",
    )
    for (scheme, side), found in state.quantizing.items():
        left = found.remaining_s(state.at_s)
        text = f"{found.index} / {found.total}" + (f", ~{wording.duration(left)} left" if left is not None else "")
        grid.add_row(f" {side} → {scheme}", ProgressBar(found.total, found.index, width=30), Text(text, style="dim"))
    total = state.plan.samples_per_arm
    arms = _arms_in_view(state)
    if len(arms) < len(state.plan.arms) and not state.may_stop_early:
        over = sum(arm.elapsed_s is not None for arm in state.arms.values())
        grid.add_row(" arms", ProgressBar(len(state.plan.arms), over, width=30), f"{over} / {len(state.plan.arms)}")
    for arm in arms:
        done = state.samples_done.get(arm)
        finished = arm in state.arms and state.arms[arm].elapsed_s is not None and not state.may_stop_early
        counted = f"{done} of at most {total} samples" if state.may_stop_early else f"{done} / {total} samples"
        text = wording.UNKNOWN if done is None else "done" if finished else counted
        grid.add_row(f" {arm}", ProgressBar(total, total if finished else done or 0, width=30), Text(text, style="dim"))
    return grid


def _layer_lines(state: AuditState) -> list[RenderableType]:
    lines: list[RenderableType] = []
    at_work = _scheme_at_work(state)
    for scheme, layers in state.layers.items():
        if at_work not in (None, scheme):
            continue
        line = Text(f" {scheme}: ")
        for name in STATES_BY_RISK:
            number = sum(layer.state == name for layer in layers)
            if number and name is not None:
                line.append(f"{wording.STATE_MARKS[name]} {number} {name}  ", style=wording.STATE_STYLES[name])
        lines.append(line)
    return lines


def _scheme_at_work(state: AuditState) -> str | None:
    """Return the scheme that is being measured; None if there are few enough to show them all."""
    schemes = state.started.request.schemes if state.started is not None else ()
    if len(schemes) <= SCHEMES_IN_FULL:
        return None
    rounded = [arm.rpartition("/")[2] for arm in state.arms if not arm.endswith(f"/{FULL}")]
    measured = list(state.layers)
    return rounded[-1] if rounded else measured[-1] if measured else schemes[0]


def _arms_in_view(state: AuditState) -> tuple[str, ...]:
    arms = state.plan.arms if state.plan else tuple(state.arms)
    at_work = _scheme_at_work(state)
    return tuple(arm for arm in arms if at_work is None or arm.rpartition("/")[2] in (FULL, at_work))


def _scores(state: AuditState) -> RenderableType:
    arms = _arms_in_view(state)
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", min_width=18, no_wrap=True)
    for arm in arms:
        checkpoint, _, precision = arm.partition("/")
        table.add_column(f"{checkpoint}\n{precision or FULL}", justify="right", width=9, no_wrap=True)
    metrics = metrics_in_order([*state.scores, *(metric for _, metric in state.running)])
    for metric in metrics[:METRICS_IN_VIEW]:
        table.add_row(f" {wording.metric_title(metric)}", *(_score(state, metric, arm) for arm in arms))
    hidden = len(metrics) - METRICS_IN_VIEW
    return Group(table, Text(f" … and {hidden} more metrics", style="dim")) if hidden > 0 else table


def _score(state: AuditState, metric: str, arm: str) -> Text:
    finished = state.scores.get(metric, {}).get(arm)
    if finished is not None:
        return Text(wording.mean_text(finished, metric), style="bold")
    running = state.running.get((arm, metric))
    if running is None or not wording.is_mean_of_samples(metric):
        return Text(wording.UNKNOWN, style="dim")
    return Text(f"~{running.mean:.2f}" if metric.startswith("nll") else f"~{running.mean:.1f}", style="dim")
