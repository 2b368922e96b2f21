"""Draw a report's figures for a paper, as SVG and PNG: what is known, scores, overlap, survival.

Only report.json is read. Colours are those of Okabe and Ito (2008) and matplotlib's cividis, which colour-blind readers
tell apart; a marker or a number repeats what a colour says. Text stays text in the SVG. No screen is needed. matplotlib
is an extra, imported by the functions that need it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import explain_write_errors, write_whole
from quail_audit.reports import findings, wording
from quail_audit.schema.figures import LayerStatistics, Score, State
from quail_audit.schema.policy import Limits
from quail_audit.schema.report import FULL, Report, SchemeReport, arms_in_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DOTS_PER_INCH = 300
WIDTH_INCHES = 7.0  # both columns of a conference paper
MOST_NINES = 6.0  # the overlap at which the colours end: 0.999999
CELLS_WITH_NUMBERS = 80  # with more cells, numbers would be too small to read
NAME_CHARACTERS = 40  # the longest name of a metric or a scheme

_STYLE: Any = {  # matplotlib types each key separately
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "quail",  # the same report gives the same file
    "text.parse_math": False,  # names come from outside
}
_STATES: Mapping[State | None, tuple[str, str]] = {  # colour, marker
    "erased": ("#D55E00", "X"),
    "drowned": ("#E69F00", "s"),
    "carried": ("#009E73", "o"),
    "untouched": ("#999999", "."),
}
_ARMS: Mapping[str, tuple[str, str]] = {"original": ("#000000", "o"), "unlearned": ("#D55E00", "D")}
_REFERENCE = ("#0072B2", "s")


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Draw every figure that the report has data for.

    Args:
        report: an audit's report.
        folder: made if it does not exist; files of the same names are replaced.

    Returns:
        The files, two for each figure.

    Raises:
        EnvironmentProblemError: matplotlib is missing, or the folder cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise EnvironmentProblemError(
            "figures need matplotlib", where="--figures", mend="pip install 'quail-audit[figures]'"
        ) from error
    written: list[Path] = []
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context():
            mpl.rcdefaults()  # the user's own matplotlibrc must not count
            mpl.rcParams.update(_STYLE)
            for name, figure in drawings(report):
                figure.draw_without_rendering()  # one layout for both files
                figure.set_layout_engine("none")
                for ending, settings in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": PNG_DOTS_PER_INCH})):
                    path = folder / f"{_file_name(name)}.{ending}"
                    drawn = io.BytesIO()
                    figure.savefig(drawn, format=ending, facecolor="white", **settings)
                    write_whole(path, drawn.getvalue())
                    written.append(path)
    return written


def drawings(report: Report) -> Iterator[tuple[str, Figure]]:
    """Yield each figure with its name, in matplotlib's current style."""
    limits = _limits(report)
    if any(found.known is not None for scheme in report.schemes.values() for found in scheme.knowledge.values()):
        yield "known", _known(report, limits)
    for scheme, measured in report.schemes.items():
        if measured.metrics:
            yield f"scores-{scheme}", _scores(scheme, measured)
        if any(layer.block is not None for layer in measured.layers):
            yield f"overlap-{scheme}", _overlap(scheme, measured.layers)
        if any(layer.survival is not None and layer.update_to_bucket for layer in measured.layers):
            yield f"survival-{scheme}", _survival(scheme, measured.layers, limits)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")


def _short(name: str) -> str:
    return printable(name, limit=NAME_CHARACTERS)


def _new_figure(height_inches: float, heights: Sequence[int] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return a figure made without pyplot, which would keep it and need a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    return figure, list(axes[:, 0])


def nines(overlap: float) -> float:
    """Return how many nines an overlap has, at most MOST_NINES: 0.9 has 1, 0.999 has 3."""
    return MOST_NINES if overlap >= 1.0 else min(MOST_NINES, -math.log10(1.0 - overlap))


def _overlap(scheme: str, layers: Sequence[LayerStatistics]) -> Figure:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    placed = {(layer.block, layer.role): layer for layer in layers if layer.block is not None}
    blocks = sorted({block for block, _ in placed if block is not None})
    roles = list(dict.fromkeys(role for _, role in placed))
    figure, (axes,) = _new_figure(0.9 + 0.24 * len(roles))
    colours, scale = colormaps["cividis"], Normalize(0.0, MOST_NINES)
    has_numbers = len(placed) <= CELLS_WITH_NUMBERS
    for (block, role), layer in placed.items():
        x, y = blocks.index(block or 0), roles.index(role)
        if layer.overlap is None:
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor="#999999", hatch="////", lw=0))
            continue
        value = nines(layer.overlap)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colours(scale(value)), edgecolor="white", lw=0.6))
        ink = "black" if value > 0.55 * MOST_NINES else "white"
        if has_numbers:
            shown = wording.share_text(layer.overlap)
            axes.text(x + 0.5, y + 0.5, shown, color=ink, ha="center", va="center", fontsize=7)
        elif layer.at_risk:
            axes.plot(x + 0.5, y + 0.5, marker="o", markersize=1.8, color=ink)
    axes.set(xlim=(0, len(blocks)), ylim=(len(roles), 0), xlabel="block", title=f"Bucket overlap at {_short(scheme)}")
    step = max(1, len(blocks) // 20)
    axes.set_xticks([place + 0.5 for place in range(0, len(blocks), step)], [str(b) for b in blocks[::step]])
    axes.set_yticks([place + 0.5 for place in range(len(roles))], [_short(role) for role in roles])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, pad=0.02, aspect=12)
    bar.set_ticks([0, 1, 2, 3, 4, 5, 6], labels=["0", "0.9", "0.99", "0.999", "0.9999", "0.99999", "0.999999+"])
    bar.outline.set_visible(False)
    if not has_numbers and any(layer.at_risk for layer in placed.values()):
        axes.text(1, 1.02, "• at risk", transform=axes.transAxes, ha="right", va="bottom", fontsize=7)
    return figure


def _scores(scheme: str, measured: SchemeReport) -> Figure:
    from matplotlib.lines import Line2D

    panels = [
        (unit, metrics)
        for unit, metrics in (
            ("× 100", [metric for metric in measured.metrics if not metric.startswith("nll")]),
            ("nats a token", [metric for metric in measured.metrics if metric.startswith("nll")]),
        )
        if metrics
    ]
    arms = arms_in_order({arm for scores in measured.metrics.values() for arm in scores}, scheme)
    rows = [len(metrics) for _, metrics in panels]
    figure, axes = _new_figure(0.8 + 0.4 * len(panels) + 0.09 * sum(rows) * (len(arms) + 1), rows)
    for (unit, metrics), panel in zip(panels, axes, strict=True):
        for row, metric in enumerate(metrics):
            for place, arm in enumerate(arms):
                score = measured.metrics[metric].get(arm)
                if score is not None:
                    offset = (place - (len(arms) - 1) / 2) * 0.8 / max(1, len(arms))
                    _interval(panel, score, row + offset, arm)
            if row % 2 == 0:
                panel.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", lw=0, zorder=0)
        panel.set_yticks(range(len(metrics)), [_short(findings.full_title(metric)) for metric in metrics])
        panel.set(ylim=(len(metrics) - 0.5, -0.5), xlabel=f"score, {unit}")
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x")
        panel.margins(x=0.03)
    axes[0].set_title(f"Scores of each arm at {_short(scheme)}, with 95 % intervals")
    styles = [(arm, *_arm_style(arm)) for arm in arms]
    handles = [
        Line2D([], [], color=colour, marker=marker, mfc=_fill(arm), ls="", ms=4.5, label=_short(arm))
        for arm, colour, marker in styles
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(arms), handletextpad=0.2, columnspacing=1.2)
    return figure


def _interval(axes: Axes, score: Score, y: float, arm: str) -> None:
    colour, marker = _arm_style(arm)
    axes.plot([score.low, score.high], [y, y], color=colour, lw=1.0, solid_capstyle="butt")
    axes.plot(score.mean, y, marker=marker, ms=4.0, color=colour, mfc=_fill(arm), mew=0.9)


def _arm_style(arm: str) -> tuple[str, str]:
    return _ARMS.get(arm.partition("/")[0], _REFERENCE)


def _fill(arm: str) -> str:
    """Return a marker's fill: its colour in full precision, white if rounded."""
    return _arm_style(arm)[0] if arm.endswith(f"/{FULL}") else "white"


def _limits(report: Report) -> Limits | None:
    """Return the limits if they hold for every metric, scheme and layer; else None, as one line would be wrong."""
    if report.policy is None:
        return Limits() if report.request.policy is None else None
    limits = report.policy.effective.limits
    return None if limits.where else limits


def _known(report: Report, limits: Limits | None) -> Figure:
    rows = [
        (scheme, metric, found, found.known)
        for scheme, measured in report.schemes.items()
        for metric in findings.metrics_in_order(measured.knowledge)
        for found in [measured.knowledge[metric]]
        if found.known is not None
    ]
    figure, (axes,) = _new_figure(0.95 + 0.2 * len(rows))
    if limits is not None:
        limit = limits.max_known_percent
        axes.axvspan(limit, 1000.0, color="#D55E00", alpha=0.07, lw=0)
        axes.axvline(limit, color="#D55E00", lw=0.9, ls=(0, (4, 2)))
        axes.text(limit, 1.0, f" limit {limit:g} %", color="#A34700", fontsize=7, va="bottom",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    for row, (_, _, knowledge, found) in enumerate(rows):
        outcome = knowledge.outcome
        decides = outcome != "reported only"
        colours = {"not forgotten": "#D55E00", "comes back": "#D55E00", "holds": "#009E73", "undecided": "#E69F00"}
        colour = colours.get(outcome, "#777777")
        axes.plot([found.low, found.high], [row, row], color=colour, lw=1.2, solid_capstyle="butt")
        axes.plot(found.percent, row, marker="D", ms=4.5, color=colour, mfc=colour if decides else "white")
        if knowledge.residual is not None:
            axes.vlines(knowledge.residual.percent, row - 0.25, row + 0.25, color="#333333", lw=1.2)
        back = "" if knowledge.back is None else f", {wording.back_text(knowledge)} back"
        axes.annotate(f"{outcome}{back}", (1.0, row), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=7, color="#333333")  # fmt: skip
    several = len(report.schemes) > 1
    names = [f"{_short(findings.full_title(m))}{f' · {_short(s)}' if several else ''}" for s, m, *_ in rows]
    axes.set_yticks(range(len(rows)), names)
    highest = max(110.0, *(found.high for *_, found in rows))
    lowest = min(
        -3.0, *(found.low for *_, found in rows), *(each.residual.percent for _, _, each, _ in rows if each.residual)
    )
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(lowest * 1.05, highest * 1.02))
    axes.set_xlabel("known, % of what there was to forget, with 95 % interval; the tick is in full precision")
    title = "Known" if several else f"Known at {_short(rows[0][0])}"
    axes.set_title(title, pad=14)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure


def _survival(scheme: str, layers: Sequence[LayerStatistics], limits: Limits | None) -> Figure:
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (axes,) = _new_figure(3.0)
    shown = [layer for layer in layers if layer.survival is not None and layer.update_to_bucket]
    if limits is not None:
        axes.axhline(limits.survival_at_risk, color="#555555", lw=0.8, ls=(0, (4, 2)))
    axes.axvline(0.5, color="#555555", lw=0.8, ls=(0, (1, 2)))
    for state, (colour, marker) in _STATES.items():
        in_state = [layer for layer in shown if layer.state == state]
        if in_state:
            axes.plot(
                [layer.update_to_bucket or 0.0 for layer in in_state],
                [layer.survival or 0.0 for layer in in_state],
                ls="", marker=marker, ms=5.5, color=colour, mec="white", mew=0.5, alpha=0.9, clip_on=False,
                label=f"{state} ({len(in_state)})",
            )  # fmt: skip
    axes.set_xscale("log")
    xs = [layer.update_to_bucket or 0.0 for layer in shown]
    axes.set_xlim(min([*xs, 0.25]) / 1.4, max([*xs, 1.0]) * 1.4)
    ys = [layer.survival or 0.0 for layer in shown]
    axes.set_ylim(min(-0.08, min(ys) - 0.08), max(1.15, max(ys) + 0.08))
    axes.set_xlabel("update / bucket width, median over changed weights")
    axes.set_ylabel("survival of the update")
    axes.text(0.5, 1.0, " half a bucket", fontsize=7, color="#555555", va="top", transform=axes.get_xaxis_transform())
    axes.set_title(f"Survival of the update at {_short(scheme)}, by layer")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid()
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2)
    return figure
