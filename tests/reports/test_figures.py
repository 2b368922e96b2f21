"""Figures of a report: what is drawn where, read back from matplotlib's own objects and from the SVG."""

import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.reports.figures import drawings, nines, write_figures
from quail_audit.runs.folder import read_report
from quail_audit.schema.report import Report
from tests.support import made_runs
from tests.support.made_runs import write_run
from tests.support.small_run import BACK, events, layer, report_of

SVG = "{http://www.w3.org/2000/svg}"


def drawn(report: Report) -> dict[str, Figure]:
    return dict(drawings(report))


def points(figure: Figure, panel: int = 0) -> set[tuple[float, float]]:
    """Where single markers stand."""
    lines = [np.asarray(line.get_xydata()) for line in figure.axes[panel].lines]
    return {(float(x), round(float(y), 6)) for line in lines if len(line) == 1 for x, y in line}


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(*made_runs.events(blocks=4, samples=2))


@pytest.fixture(scope="module")
def figures(report: Report) -> dict[str, Figure]:
    return drawn(report)


@pytest.mark.parametrize(
    ("overlap", "expected"), [(0.0, 0), (0.9, 1), (0.999, 3), (1.0, 6), (1 - 1e-9, 6), (0.84, 0.79588)]
)
def test_nines(overlap: float, expected: float) -> None:
    assert nines(overlap) == pytest.approx(expected, abs=1e-5)


def test_known_stands_where_it_was_measured_with_its_interval_the_limit_and_what_is_back() -> None:
    made = report_of(*made_runs.events(schemes=("nf4", "int8", "fp4"), samples=1, outcome="fail"))
    name, figure = next(drawings(made))
    assert name == "known"
    (axes,) = figure.axes
    assert len(points(figure)) == len(axes.get_yticks()) == 9
    assert (97.0, 0.0) in points(figure)
    intervals = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if len(line.get_xydata()) == 2]
    assert [91.0, 103.0] in intervals
    assert [10.0, 10.0] in intervals, "the limit"
    assert "comes back, 1 of 1 back" in [text.get_text() for text in axes.texts]
    ticks = [path.vertices[0].tolist() for lines in axes.collections for path in lines.get_paths()]
    assert [0.0, -0.25] in ticks, "nothing is known in full precision"
    assert "VerbMem, forget · nf4" in [label.get_text() for label in axes.get_yticklabels()]


def test_a_policy_of_ones_own_draws_no_default_limit() -> None:
    report = report_of(*events())
    asked = report.request.model_copy(update={"policy": "quail.toml"})
    (axes,) = next(drawings(report.model_copy(update={"request": asked})))[1].axes
    assert not any("limit" in text.get_text() for text in axes.texts)


def test_every_score_is_drawn_losses_apart(report: Report, figures: dict[str, Figure]) -> None:
    figure = figures["scores-nf4"]
    for panel, is_loss in enumerate((False, True)):
        metrics = {m: arms for m, arms in report.schemes["nf4"].metrics.items() if m.startswith("nll") == is_loss}
        expected = {score.mean for arms in metrics.values() for score in arms.values()}
        assert {x for x, _ in points(figure, panel)} == expected
        assert len(points(figure, panel)) == sum(map(len, metrics.values()))


def test_a_cell_for_each_layer_its_block_across_and_its_role_down(figures: dict[str, Figure]) -> None:
    axes = figures["overlap-nf4"].axes[0]
    cells = {(cell.get_x(), cell.get_y()) for cell in axes.patches}  # type: ignore[attr-defined]
    assert cells == {(x, y) for x in range(4) for y in range(7)}
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "down_proj"
    assert len({text.get_text() for text in axes.texts}) > 1, "the numbers"


def test_a_deep_model_has_marks_in_place_of_numbers() -> None:
    report = report_of(*made_runs.events(blocks=12, samples=1))
    axes = drawn(report)["overlap-nf4"].axes[0]
    assert len(axes.lines) == sum(found.at_risk for found in report.schemes["nf4"].layers)


def test_survival_stands_over_the_width_of_buckets(report: Report, figures: dict[str, Figure]) -> None:
    (axes,) = figures["survival-nf4"].axes
    assert axes.get_xscale() == "log"
    shown = {(x, y) for line in axes.lines if line.get_marker() != "None" for x, y in line.get_xydata()}
    measured = {(found.update_to_bucket, found.survival) for found in report.schemes["nf4"].layers}
    assert shown == {pair for pair in measured if None not in pair}
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text().split(" ")[0] for text in legend.get_texts()} == {"erased", "drowned", "carried"}


def test_a_layer_that_is_not_finite_is_hatched() -> None:
    report = report_of(*events())
    broken = layer(overlap=None, survival=None, state=None, at_risk=False, nonfinite_original=1)
    scheme = report.schemes["nf4"].model_copy(update={"layers": (broken,)})
    figures = drawn(report.model_copy(update={"schemes": {"nf4": scheme}}))
    assert "survival-nf4" not in figures
    (cell,) = figures["overlap-nf4"].axes[0].patches
    assert cell.get_hatch()


def test_files_stay_in_the_folder_and_keep_text_as_text(tmp_path: Path) -> None:
    """Whatever a scheme and a metric are called: no path, no mathematics, no markup."""
    name = "../../<script>$\\frac{1}$\n"
    report = report_of(*events())
    scheme = report.schemes["nf4"].model_copy(
        update={"layers": (), "metrics": {}, "knowledge": {name: BACK, "knowmem_forget": BACK}}
    )
    report = report.model_copy(update={"schemes": {name: scheme}})
    written = write_figures(report, tmp_path / "figures")
    assert {path.name for path in written} == {"known.svg", "known.png"}
    assert all(path.parent == tmp_path / "figures" for path in written)
    texts = [text.text or "" for text in ElementTree.parse(written[0]).iter(f"{SVG}text")]  # noqa: S314 - ours
    assert "KnowMem, forget" in texts
    assert any("<script>$" in text for text in texts)
    again = write_figures(report, tmp_path / "again")
    assert again[0].read_bytes() == written[0].read_bytes(), "the same report gives the same file"


@pytest.mark.slow
def test_every_figure_of_a_run_is_written_and_legible(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_runs.events(schemes=("nf4", "../x"), samples=4))
    written = write_figures(read_report(run), tmp_path / "figures")
    assert {path.name for path in written} == {
        f"{name}.{ending}"
        for ending in ("svg", "png")
        for name in (
            "known",
            *(f"{kind}-{s}" for kind in ("scores", "overlap", "survival") for s in ("nf4", "..-x")),
        )
    }
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert math.isclose(image.info["dpi"][0], 300, rel_tol=0.01)
                assert image.width == 2100
        else:
            root = ElementTree.parse(path).getroot()  # noqa: S314 - ours
            assert not list(root.iter(f"{SVG}script"))
            assert len(list(root.iter(f"{SVG}text"))) > 5


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentProblemError) as caught:
        write_figures(report_of(*events()), tmp_path)
    assert "quail-audit[figures]" in caught.value.mend


def test_a_folder_that_cannot_be_made_is_an_environment_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblemError, match="cannot write"):
        write_figures(report_of(*events()), tmp_path / "file")
