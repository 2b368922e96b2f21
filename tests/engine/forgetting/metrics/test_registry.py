"""Metrics of other packages, and what is imported to know them."""

from collections.abc import Generator, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from quail_audit.core import plug_ins
from quail_audit.core.errors import UsageError
from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.metrics import registry
from quail_audit.engine.forgetting.metrics.interface import LanguageModel, Measured, Metric, Sample
from quail_audit.schema.figures import Score


class Lines(Metric):
    """Counts the lines of a file of its own."""

    name = "lines"
    needs = "lines.txt"
    generates = False

    def samples(self, data: ForgettingData) -> int:
        path = data.folder / "lines.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def measure(self, data: ForgettingData, model: LanguageModel, *, seed: int) -> Generator[Sample, None, Measured]:
        values = np.ones(self.samples(data))
        yield Sample(0, 1.0)
        return Measured(Score(mean=1.0, low=1.0, high=1.0, samples=len(values)), values)


def broken() -> Metric:
    raise RuntimeError("no licence")


class Hostile(Lines):
    name = "\x1b[2J[red]"


def no_metric() -> object:
    return "a string"


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entries = [
        EntryPoint("lines", f"{__name__}:Lines", "quail.metrics"),
        EntryPoint("broken", f"{__name__}:broken", "quail.metrics"),
        EntryPoint("no-metric", f"{__name__}:no_metric", "quail.metrics"),
        EntryPoint("hostile", f"{__name__}:Hostile", "quail.metrics"),
        EntryPoint("absent", "no_such_package:metric", "quail.metrics"),
    ]
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: [e for e in entries if e.group == group])
    registry.known_metrics.cache_clear()
    yield
    registry.known_metrics.cache_clear()


@pytest.mark.usefixtures("plugged_in")
def test_a_plugged_in_metric_is_measured_and_broken_ones_are_skipped_loudly(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="plug-in") as warned:
        names = [metric.name for metric in registry.known_metrics() if metric.task == "language modelling"]
    assert names[:4] == ["nll_forget", "nll_retain", "privleak", "membership_loss"]
    assert names[-5:] == ["lines", "knowmem_forget", "knowmem_retain", "verbmem_forget", "verbmem_retain"]
    messages = [str(warning.message) for warning in warned]
    assert [message.split(" was")[0] for message in messages] == [
        f"the metric plug-in {name}" for name in ("broken", "no-metric", "hostile", "absent")
    ]
    assert "no licence" in messages[0]
    (tmp_path / "lines.txt").write_text("a\nb\n")
    data = read_data(tmp_path)
    assert data.samples == {"lines": 2}
    assert read_data(tmp_path, metrics=("lines",)).samples == {"lines": 2}


def test_a_plugged_in_metric_is_unknown_without_its_package() -> None:
    registry.known_metrics.cache_clear()
    with pytest.raises(UsageError, match="unknown metric 'lines'"):
        registry.metric_named("lines")
