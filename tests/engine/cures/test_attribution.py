"""Attribution against models that are loaded anew for every unit, and its command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quail_audit.cli.attribute import attribute as attribute_command
from quail_audit.cli.attribute import read_budget, worst_scheme
from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.cures.attribution import attribute, coarse_units, fine_units, share_of_fall
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.runs.folder import new_run, read_report, read_request
from quail_audit.runs.follow import replay
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.cures import AttributionPlanned, UnitMeasured
from quail_audit.schema.requests import AttributeRequest


@pytest.fixture(scope="module")
def events(erased_run: Path) -> list[Any]:
    return list(attribute(AttributeRequest(run=str(erased_run), scheme="nf4"), "a-run", ("quail", "…")))


def loaded_anew(run: Path, rounded: tuple[str, ...]) -> np.ndarray:
    """Each forget text's loss in a model of which only these layers are rounded as it is loaded."""
    audited = read_report(run).request
    pair = open_pair(audited.original, audited.unlearned)
    layers = [layer for layer in pair.layers if layer.name in rounded]
    arm = load_arm(pair.unlearned, scheme_named("nf4"), layers=layers, device="cpu", dtype="auto")
    texts = json.loads((Path(str(audited.data)) / "privleak" / "forget.json").read_text())
    model = TransformersModel(arm.model, arm.tokenizer)
    return np.array(
        [-found.mean(dtype=np.float64) for _, found in sorted(model.log_probabilities(texts), key=lambda x: x[0])]
    )


def test_every_unit_is_what_a_model_loaded_anew_says(erased_run: Path, events: list[Any]) -> None:
    planned = next(event for event in events if isinstance(event, AttributionPlanned))
    units = [event for event in events if isinstance(event, UnitMeasured)]
    audited = read_report(erased_run).request
    everything = {layer.name for layer in open_pair(audited.original, audited.unlearned).layers}
    full, rounded = loaded_anew(erased_run, ()), loaded_anew(erased_run, tuple(everything))
    assert planned.nll_full == pytest.approx(full.mean(), rel=1e-5)
    assert planned.nll_rounded == pytest.approx(rounded.mean(), rel=1e-5)
    fall = full.mean() - rounded.mean()
    assert fall > 1.0, "the pair is made so that its memory comes back"
    for unit in units[::4]:
        if unit.mode == "alone":
            found = loaded_anew(erased_run, unit.layers)
            expected = (full.mean() - found.mean()) / fall
        else:
            found = loaded_anew(erased_run, tuple(everything - set(unit.layers)))
            expected = (found.mean() - rounded.mean()) / fall
        assert unit.nll == pytest.approx(found.mean(), rel=1e-4)
        assert unit.share == pytest.approx(expected, abs=1e-4)
        assert unit.low <= unit.share <= unit.high


def test_scores_of_the_audit_itself_agree(erased_run: Path, events: list[Any]) -> None:
    planned = next(event for event in events if isinstance(event, AttributionPlanned))
    scores = read_report(erased_run).schemes["nf4"].metrics["nll_forget"]
    assert planned.nll_full == pytest.approx(scores["unlearned/full"].mean, rel=1e-4)
    assert planned.nll_rounded == pytest.approx(scores["unlearned/nf4"].mean, rel=1e-4)


def test_blocks_and_roles_come_first_and_cover_every_layer(events: list[Any]) -> None:
    units = [event for event in events if isinstance(event, UnitMeasured) and event.mode == "alone"]
    kinds = [unit.kind for unit in units]
    assert kinds == sorted(kinds, key=["block", "role", "layer"].index)
    for kind in ("block", "role"):
        layers = [name for unit in units if unit.kind == kind for name in unit.layers]
        assert len(layers) == len(set(layers)) == 14
    assert [unit.passes for unit in units] == list(range(3, 3 + len(units)))
    looked_into = {unit.unit for unit in units if unit.kind == "layer"}
    shares = {(unit.kind, unit.unit): unit.share for unit in units}
    for unit in units:
        for name in unit.layers if unit.kind == "block" else ():
            both = shares["block", unit.unit] >= 0.05 and shares["role", name.rpartition(".")[2]] >= 0.05
            assert (name in looked_into) == both


def test_a_budget_ends_it_and_says_so(erased_run: Path) -> None:
    request = AttributeRequest(run=str(erased_run), scheme="nf4", budget_passes=5)
    events = list(attribute(request, "a-run", ()))
    units = [event for event in events if isinstance(event, UnitMeasured)]
    assert len(units) == 3, "two passes went into the ends"
    assert any("the budget is spent: 5 passes" in event.message for event in events if isinstance(event, Noted))


def test_a_scheme_that_brings_nothing_back_has_nothing_to_attribute(erased_run: Path) -> None:
    events = list(attribute(AttributeRequest(run=str(erased_run), scheme="rtn-int8-channel"), "a-run", ()))
    assert not [event for event in events if isinstance(event, UnitMeasured)]
    assert any("nothing to attribute" in event.message for event in events if isinstance(event, Noted))


def test_likeliest_layers_first(erased_run: Path) -> None:
    audited = read_report(erased_run).request
    layers = open_pair(audited.original, audited.unlearned).layers

    def unit(kind: Any, name: str, share: float) -> UnitMeasured:
        return UnitMeasured(
            kind=kind, unit=name, layers=(), weights=1, mode="alone", nll=1.0, share=share, low=0.0, high=1.0, passes=1
        )

    coarse = [
        unit("block", "0", 0.9),
        unit("block", "1", 0.3),
        unit("role", "up_proj", 0.5),
        unit("role", "q_proj", 0.6),
    ]
    assert [found.name for found in fine_units(layers, coarse)] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]
    assert [unit.name for unit in coarse_units(layers)][:2] == ["0", "1"]


def test_shares_of_a_fall() -> None:
    part, fall = np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[4.0, 4.0], [0.0, 0.0]])
    assert share_of_fall(part, fall).tolist() == [0.5, 0.0]


def test_the_command(erased_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worst_scheme(erased_run) == "nf4"
    run = tmp_path / "run"
    assert attribute_command(erased_run, budget="7", run_dir=run, quiet=True) == 0
    shown = capsys.readouterr().out
    assert "brings back alone" in shown
    assert isinstance(read_request(run), AttributeRequest)
    assert sum(isinstance(event, UnitMeasured) for event in replay(run)) == 5
    with pytest.raises(BadInputError, match="a run of quail attribute"):
        read_report(run)


def test_budgets() -> None:
    assert read_budget("40") == (40, None)
    assert read_budget("90s") == (None, 90.0)
    assert read_budget("10m") == (None, 600.0)
    assert read_budget(None) == (None, None)
    for text in ("0", "x", "10h", "-3"):
        with pytest.raises(UsageError, match="cannot read"):
            read_budget(text)


def test_an_audit_without_data_is_refused(erased_run: Path, tmp_path: Path) -> None:
    from quail_audit.engine.audit.run import audit
    from quail_audit.runs.record import record

    request = read_report(erased_run).request.model_copy(update={"data": None})
    with new_run(tmp_path / "run", request) as folder:
        for _ in record(audit(request, "an-audit"), folder):
            pass
    with pytest.raises(BadInputError, match="no forget texts"):
        list(attribute(AttributeRequest(run=str(tmp_path / "run"), scheme="nf4"), "a-run", ()))
    with pytest.raises(BadInputError, match="did not measure forgetting"):
        worst_scheme(tmp_path / "run")
