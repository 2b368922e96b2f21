"""Prescriptions for reports made by hand, and one applied from end to end."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from quail_audit.cli import prescribe as prescribe_cli
from quail_audit.cli.app import add_command
from quail_audit.cli.attribute import attribute
from quail_audit.cli.recipe import recipe
from quail_audit.core.errors import UsageError
from quail_audit.engine.schemes import rtn
from quail_audit.engine.schemes.registry import known_schemes
from quail_audit.runs.folder import list_runs
from quail_audit.schema.figures import Knowledge, LayerStatistics
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.prescription import can_carry, prescribe
from quail_train.cli.carry import carry
from quail_train.cli.train import train
from tests.support.judged_figures import COMES_BACK, HOLDS, NOT_FORGOTTEN, UNDECIDED
from tests.support.small_run import REQUEST, layer

ERASED = layer()
DROWNED = layer("model.layers.1.mlp.down_proj", state="drowned", survival=1.0, noise=7.0)
CARRIED = layer("model.layers.2.mlp.down_proj", state="carried", at_risk=False, survival=1.0)


def report(
    known: Knowledge | None,
    *layers: LayerStatistics,
    request: AuditRequest = REQUEST,
    samples: dict[str, int] | None = None,
) -> Report:
    found = SchemeReport(summary=None, layers=layers, metrics={}, knowledge={"verbmem_forget": known} if known else {})
    if samples is None and request.data is not None:
        samples = {"verbmem_forget": 3, "verbmem_retain": 3}
    return Report(
        quail_version="0", run_id="a-run", started="", finished="", exit_code=1, request=request, environment={},
        checkpoints={}, left_in_full_precision=(), samples=samples or {}, skipped={}, arms={}, notes=(), verdict=None,
        failure=None, schemes={"nf4": found},
    )  # fmt: skip


def cures(found: Report) -> list[str]:
    return [cure.cure for cure in prescribe(found, "runs/1", "nf4").prescriptions]


def test_an_erased_update_is_carried() -> None:
    assert cures(report(COMES_BACK, ERASED, CARRIED)) == ["calibrated carry", "carry", "retraining", "recipe"]


def test_a_drowned_update_needs_calibration_or_training() -> None:
    advice = prescribe(report(COMES_BACK, DROWNED), "runs/1", "nf4")
    assert [cure.cure for cure in advice.prescriptions] == ["calibrated carry", "retraining", "recipe"]
    (command,) = advice.prescriptions[0].commands
    assert command[command.index("--layers") + 1] == "at-risk"
    assert "drowned 1" in advice.finding


def test_without_data_only_what_needs_none() -> None:
    bare = REQUEST.model_copy(update={"data": None})
    assert cures(report(None, ERASED, request=bare)) == ["carry"]
    assert cures(report(None, DROWNED, request=bare)) == []


def test_without_retain_texts_nothing_is_calibrated_or_trained() -> None:
    assert cures(report(COMES_BACK, ERASED, samples={"verbmem_forget": 3})) == ["carry", "recipe"]


def test_a_scheme_whose_grid_is_not_known_is_not_carried_onto() -> None:
    found = report(COMES_BACK, ERASED)
    found = found.model_copy(update={"schemes": {"mxfp4": found.schemes["nf4"]}})
    assert [cure.cure for cure in prescribe(found, "runs/1", "mxfp4").prescriptions] == ["retraining", "recipe"]


def test_the_grids_that_carry_knows_are_told_by_name() -> None:
    from quail_audit.engine.schemes.affine import AffineScheme
    from quail_audit.engine.schemes.bitsandbytes import FourBit

    for scheme in (*known_schemes(), *filter(None, map(rtn.scheme_of, ("rtn-int2-g64-asym", "rtn-int8-channel")))):
        assert can_carry(scheme.name) == isinstance(scheme, FourBit | AffineScheme), scheme.name
    assert not can_carry("gptq-int4-g128")


def test_what_was_attributed_is_not_attributed_again() -> None:
    found = report(COMES_BACK, ERASED)
    for is_attributed, names in ((False, ["attribute", "recipe"]), (True, ["recipe"])):
        recipe = prescribe(found, "runs/1", "nf4", is_attributed=is_attributed).prescriptions[-1]
        assert [command[1] for command in recipe.commands] == names


def test_what_was_not_forgotten_is_mended_by_none_of_these() -> None:
    advice = prescribe(report(NOT_FORGOTTEN, ERASED), "runs/1", "nf4")
    assert advice.prescriptions == ()
    assert "the unlearning failed" in advice.finding


def test_nothing_came_back_or_nobody_can_tell() -> None:
    advice = prescribe(report(HOLDS, ERASED), "runs/1", "nf4")
    assert advice.prescriptions == ()
    assert "nothing to repair" in advice.finding
    undecided = prescribe(report(UNDECIDED), "runs/1", "nf4")
    assert "more samples" in undecided.finding


@pytest.mark.parametrize("name", ["carry", "train", "attribute", "recipe"])
def test_every_option_of_a_command_is_one_of_that_command(name: str) -> None:
    functions = {"carry": carry, "train": train, "attribute": attribute, "recipe": recipe}
    app = typer.Typer()
    add_command(functions[name], name, to=app)
    options = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    prescriptions = prescribe(report(COMES_BACK, ERASED, DROWNED), "runs/1", "nf4").prescriptions
    commands = [command for cure in prescriptions for command in cure.commands if command[1] == name]
    assert commands
    for command in commands:
        assert {part for part in command if part.startswith("--")} <= options


def test_applying_the_first_cure_audits_its_result(
    erased_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command runs in this process here, as the environment of the tests may not know it by name yet."""
    monkeypatch.chdir(tmp_path)

    def run(command: list[str], *, check: bool) -> Any:
        app = typer.Typer()
        add_command(carry, to=app)
        app.callback()(lambda: None)
        done = CliRunner().invoke(app, command[3:])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(prescribe_cli.subprocess, "run", run)
    code = prescribe_cli.prescribe(erased_run, apply=True, quiet=True)
    shown = capsys.readouterr().out
    assert "1. carry" in shown or "1. calibrated carry" in shown
    assert "before → after" in shown
    audits = list_runs(tmp_path / ".quail" / "runs", limit=5)
    assert audits[0].request.unlearned.endswith("-carried")
    assert audits[0].exit_code == code
    with pytest.raises(UsageError, match="did not measure fp4"):
        prescribe_cli.prescribe(erased_run, scheme="fp4")
