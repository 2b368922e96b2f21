"""The Python API: what `import quail_audit as quail` gives."""

from __future__ import annotations

import ast
import doctest
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import torch

import quail_audit as quail
from quail_audit import api
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.runs.digest import digest_of
from quail_audit.runs.names import EVENTS, JOURNAL, REPORT, REQUEST
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.report import Report as PlainReport
from quail_audit.schema.requests import AuditRequest


@pytest.fixture(scope="module")
def pair(world: Path) -> tuple[Path, Path]:
    return world / "original", world / "blank"


@pytest.fixture(scope="module")
def audited(
    pair: tuple[Path, Path], world: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[quail.Report, list[quail.Event], Path]:
    """An audit into a folder: its report, the events that were passed on, and the folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    events: list[quail.Event] = []
    report = quail.audit(*pair, data=world / "data", schemes=["nf4"], on_event=events.append, run_dir=folder)
    return report, events, folder


def test_every_public_name_is_there_and_typed() -> None:
    """The names under TYPE_CHECKING, which mypy and editors read, are those that are imported when they are used."""
    for name in quail.__all__:
        assert getattr(quail, name) is not None
        assert name in dir(quail)
    module = ast.parse(Path(quail.__file__).read_text())
    (block,) = (each for each in module.body if isinstance(each, ast.If))
    typed = {(each.module, name.name) for each in block.body if isinstance(each, ast.ImportFrom) for name in each.names}
    assert typed == {(home, name) for name, home in quail._MODULES.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'audits'"):
        quail.audits  # noqa: B018


def test_no_module_takes_the_place_of_a_name() -> None:
    """Importing a module sets it as an attribute of its package."""
    modules = {path.stem for path in Path(quail.__file__).parent.iterdir()}
    assert not modules & set(quail.__all__)


def test_the_options_are_the_requests_fields() -> None:
    assert {"original", "unlearned", *typing.get_type_hints(api.AuditOptions)} == set(
        AuditRequest.model_fields
    ) - api.NOT_OPTIONS
    assert api.AuditOptions.__doc__ is not None
    described = {
        name for line in re.findall(r"^ {8}([\w, ]+):", api.AuditOptions.__doc__, re.M) for name in line.split(", ")
    }
    assert described == set(api.AuditOptions.__annotations__)


def test_the_examples_of_the_docstrings() -> None:
    found = doctest.testmod(api)
    assert found.attempted
    assert not found.failed


def test_an_audit_is_kept_as_the_command_keeps_it(audited: tuple[quail.Report, list[quail.Event], Path]) -> None:
    report, events, folder = audited
    assert {path.name for path in folder.iterdir()} >= {REQUEST, EVENTS, REPORT}
    assert not (folder / JOURNAL).exists()
    assert len((folder / EVENTS).read_text().splitlines()) == len(events)
    assert report.verdict is not None
    assert report.exit_code in (0, 1, 5)
    written = json.loads((folder / REPORT).read_text())
    assert written["digest"] == report.digest == digest_of(written)
    assert report.model_dump_json(indent=2) + "\n" == (folder / REPORT).read_text()
    again = quail.read_report(folder)
    assert again.model_dump() == report.model_dump()
    assert repr(report) == f"<Report of run {report.run_id}: {report.verdict.outcome} at nf4>" == str(report)


def test_an_audit_without_a_folder_writes_nothing(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = quail.audit(*pair)
    assert report.digest == digest_of(json.loads(report.model_dump_json()))
    assert report.schemes["nf4"].layers
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(quail.UsageError, match="run_dir"):
        report.to_frame("samples")


def test_events_come_as_they_happen(pair: tuple[Path, Path]) -> None:
    events = quail.audit_events(*pair)
    assert isinstance(events, Iterator)
    assert next(events).type == "run_started"
    events.close()


@pytest.mark.parametrize(
    ("options", "where", "words"),
    [
        ({"scheme": ["nf4"]}, "scheme", "Did you mean schemes"),
        ({"papyrus": 1}, "papyrus", "Known: original"),
        ({"schemes": "nf4"}, "schemes", "tuple"),
        ({"schemes": ["nf5"]}, "schemes", "unknown scheme"),
        ({"metrics": [""]}, "metrics.0", "pattern"),
        ({"max_samples": 0}, "max_samples", "greater than or equal to 1"),
        ({"retrain_auc": 2}, "retrain_auc", "less than 1"),
        ({"limits": {"max_recovery": 5.0}}, "limits", "max_recovery"),
        ({"device": "tpu"}, "device", "tpu"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    pair: tuple[Path, Path], options: dict[str, object], where: str, words: str
) -> None:
    with pytest.raises(quail.UsageError) as found:
        quail.audit(*pair, **options)  # type: ignore[arg-type]
    assert found.value.where == where
    assert words in str(found.value)


def test_an_unknown_option_is_refused_at_the_call(pair: tuple[Path, Path]) -> None:
    with pytest.raises(quail.UsageError):
        quail.audit_events(*pair, papyrus=1)  # type: ignore[call-arg]


def test_bad_input_is_a_quail_error(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(quail.BadInputError):
        quail.audit(pair[0], tmp_path / "none")
    with pytest.raises(quail.BadInputError):
        quail.audit(*pair, baseline=tmp_path)
    with pytest.raises(quail.BadInputError):
        quail.read_report(tmp_path)


def test_a_folder_with_a_run_is_not_written_again(
    pair: tuple[Path, Path], audited: tuple[quail.Report, list[quail.Event], Path]
) -> None:
    with pytest.raises(quail.BadInputError, match="already holds a run"):
        quail.audit(*pair, run_dir=audited[2])


def test_measuring_two_matrices() -> None:
    original = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    update = 1e-3 * torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    by_name = quail.measure(original, original + update, "nf4")
    assert by_name == quail.measure(original, original + update, scheme_named("nf4"))
    turned = torch.nn.Parameter((original.T.contiguous()).T)  # not contiguous, and with a gradient
    assert quail.measure(turned, original + update, "nf4") == by_name
    assert by_name.weights == 64 * 128
    assert quail.measure(original, original, "nf4").state == "untouched"
    assert quail.measure(original.bfloat16(), (original + update).half(), "nf4").overlap is not None


@pytest.mark.parametrize(
    ("one", "other", "scheme", "where"),
    [
        (torch.zeros(4), torch.zeros(1, 4), "nf4", "w_original"),
        (torch.zeros(1, 4), torch.zeros(0, 4), "nf4", "w_unlearned"),
        (torch.zeros(1, 4).double(), torch.zeros(1, 4), "nf4", "w_original"),
        (torch.zeros(1, 4), torch.zeros(1, 8), "nf4", "w_unlearned"),
        (torch.zeros(1, 4), torch.zeros(1, 4), "nf5", "scheme"),
        (torch.zeros(1, 4), torch.zeros(1, 4), "gptq-int4-g128", "scheme"),
        (torch.zeros(1, 4), torch.zeros(1, 4), "rtn-int4-g128", "scheme"),
    ],
)
def test_matrices_that_cannot_be_measured(one: torch.Tensor, other: torch.Tensor, scheme: str, where: str) -> None:
    with pytest.raises(quail.UsageError) as found:
        quail.measure(one, other, scheme)
    assert found.value.where in (where, "schemes")


def test_comparing(audited: tuple[quail.Report, list[quail.Event], Path]) -> None:
    report, _, folder = audited
    found = quail.compare(folder, report)
    assert isinstance(found, quail.Comparison)
    assert found.before == found.after == report.run_id
    assert {change.standing for scheme in found.schemes for change in scheme.layers} == {"same"}


def test_a_notebook_shows_the_html_report_in_a_frame(audited: tuple[quail.Report, list[quail.Event], Path]) -> None:
    shown = audited[0]._repr_html_()
    assert "<style" not in shown
    (page,) = re.findall(r'^<iframe sandbox="allow-scripts" srcdoc="([^"]*)"[^<>]*></iframe>$', shown)
    assert unescape(page).startswith("<!doctype html>")
    assert audited[0].run_id in page
    hostile = audited[0].model_copy(update={"run_id": '"><script>alert(1)</script>'})
    assert "<script" not in hostile._repr_html_()


def test_tables_for_pandas(audited: tuple[quail.Report, list[quail.Event], Path]) -> None:
    report, events, folder = audited
    layers = report.to_frame()
    assert layers.columns[:2].tolist() == ["scheme", "name"]
    assert layers["survival"].tolist() == [layer.survival for layer in report.schemes["nf4"].layers]
    scores = report.to_frame("scores").set_index(["metric", "arm"])
    assert scores.index.is_unique
    metrics = report.schemes["nf4"].metrics
    assert scores.loc[("verbmem_forget", "unlearned/nf4"), "mean"] == metrics["verbmem_forget"]["unlearned/nf4"].mean
    samples = report.to_frame("samples")
    assert samples["score"].tolist() == [event.score for event in events if isinstance(event, SampleScored)]
    assert samples["truth"].str.len().max() > 0
    alone = quail.read_report(folder / REPORT)
    assert alone.to_frame("scores").equals(report.to_frame("scores"))
    with pytest.raises(quail.UsageError, match="holds no samples"):
        alone.to_frame("samples")
    with pytest.raises(quail.UsageError, match="layers, scores, samples"):
        report.to_frame("papyrus")  # type: ignore[arg-type]


def test_a_table_without_pandas_says_what_to_install(
    audited: tuple[quail.Report, list[quail.Event], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(quail.EnvironmentProblemError, match=r"pip install 'quail-audit\[frames\]'"):
        audited[0].to_frame()


def test_a_report_is_one_of_the_schema(audited: tuple[quail.Report, list[quail.Event], Path]) -> None:
    assert isinstance(audited[0], PlainReport)
    assert set(quail.Report.model_fields) == set(PlainReport.model_fields)


def test_an_audit_says_nothing_by_itself(pair: tuple[Path, Path], world: Path) -> None:
    """No library that it uses warns of what Quail does not use."""
    code = (
        "import sys, quail_audit as quail\n"
        "report = quail.audit(*sys.argv[1:3], data=sys.argv[3], schemes=['nf4', 'int8'], max_samples=2)\n"
        "print(report.verdict.outcome)"
    )
    arguments = [sys.executable, "-c", code, *map(str, pair), str(world / "data")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("pass", "fail", "inconclusive")
