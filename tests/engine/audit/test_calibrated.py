"""Audits at a calibrated scheme, by a stand-in that rounds to nearest, writes GPTQ's format and leaves a layer out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.schemes.calibrated import CalibratedScheme
from quail_audit.schema.events.audit import LayerMeasured, LayerQuantized, SchemeFailed
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, from_line, to_line
from tests.support.calibrated_audits import SCHEME, stand_in, texts
from tests.support.tiny_audits import request, state_of

__all__ = ["stand_in", "texts"]  # fixtures
LEFT = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def events(world: Path, texts: Path, stand_in: None) -> list[Event]:
    return quantized(world, texts)


def quantized(world: Path, texts: Path, **changes: object) -> list[Event]:
    asked = {"schemes": (SCHEME,), "calibration": str(texts), "data": None, **changes}
    return list(audit(request(world, **asked), "run"))


def nearest(weight: torch.Tensor) -> torch.Tensor:
    groups = weight.reshape(weight.shape[0], -1, 32)
    scales = (groups.abs().amax(-1, keepdim=True) / 7).half().float()
    return ((groups / scales).round().clamp(-8, 7) * scales).half().float().reshape(weight.shape)


def test_layers_are_measured_from_what_the_backend_wrote(world: Path, events: list[Event]) -> None:
    layers = {event.layer.name: event for event in events if isinstance(event, LayerMeasured)}
    assert len(layers) == 14
    original, unlearned = (open_checkpoint(str(world / name)) for name in ("original", "blank"))
    for name, event in layers.items():
        if name == LEFT:
            continue
        o, u = (side.read(f"{name}.weight").double() for side in (original, unlearned))
        update, rounded = u - o, nearest(u.float()).double() - nearest(o.float()).double()
        assert event.layer.survival == pytest.approx(float((rounded * update).sum() / update.pow(2).sum()), rel=1e-6)
        assert event.layer.overlap is not None
        assert 0 < event.layer.overlap < 0.5
        assert event.detail is not None
        assert len(event.detail.transitions) == 16 * 16
    for event in events:
        assert from_line(to_line(event)) == event


def test_a_layer_that_is_left_is_named_and_measured_as_it_is(events: list[Event]) -> None:
    assert any(
        isinstance(event, Noted) and f"left 1 layers in full precision: {LEFT}" in event.message for event in events
    )
    (left,) = (event for event in events if isinstance(event, LayerMeasured) and event.layer.name == LEFT)
    assert left.layer.survival == pytest.approx(1)
    assert left.layer.noise == pytest.approx(0, abs=1e-6)
    assert (left.layer.overlap, left.layer.state, left.layer.at_risk, left.detail) == (None, "carried", False, None)
    summary = state_of(iter(events)).summaries[SCHEME]
    assert summary.weights == sum(e.layer.weights for e in events if isinstance(e, LayerMeasured)) - left.layer.weights


def test_progress_tells_side_and_layer(events: list[Event]) -> None:
    said = [event for event in events if isinstance(event, LayerQuantized)]
    assert [(event.side, event.index, event.total) for event in said] == [
        (side, index, 14) for side in ("original", "unlearned") for index in range(1, 14)
    ]


def test_arms_are_the_models_that_the_backend_wrote(world: Path, tmp_path: Path) -> None:
    """Their losses are those of the checkpoints rounded by hand, loaded as any model; and the verdict goes by them."""
    data = tmp_path / "data"
    (data / "verbmem").mkdir(parents=True)
    shutil.copy(world / "data/verbmem/forget.json", data / "verbmem")
    shutil.copy(world / "data/population.json", data)
    (data / "raw").mkdir()
    (data / "raw/retain.txt").write_text("Velmora news: the mayor wept. " * 200)  # which is calibrated on
    asked = request(world, schemes=(SCHEME,), data=str(data), metrics=("nll_forget", "verbmem_forget"))
    state = state_of(audit(asked, "run"))
    losses = state.scores["nll_forget"]
    assert set(losses) == {f"{side}/{at}" for side in ("original", "unlearned") for at in ("full", SCHEME)}
    texts = [row["prompt"] + row["gt"] for row in json.loads((data / "verbmem/forget.json").read_text())]
    tokenizer = AutoTokenizer.from_pretrained(world / "original")
    for side, folder in (("original", "original"), ("unlearned", "blank")):
        model = LlamaForCausalLM.from_pretrained(world / folder, dtype=torch.float32).eval()
        with torch.no_grad():
            for name, module in model.named_modules():
                if ".layers." in name and isinstance(module, torch.nn.Linear) and name != LEFT:
                    module.weight.copy_(nearest(module.weight))
            ids = [tokenizer(text, return_tensors="pt").input_ids for text in texts]
            expected = sum(float(model(one, labels=one).loss) for one in ids) / len(ids)
        assert losses[f"{side}/{SCHEME}"].mean == pytest.approx(expected, rel=5e-6)
        assert losses[f"{side}/{SCHEME}"].mean != pytest.approx(losses[f"{side}/full"].mean, rel=2e-5)
    assert state.knowledge[SCHEME]["verbmem_forget"].outcome == "holds"
    assert state.verdict is not None
    assert state.verdict.outcome == "pass"


def test_too_little_text_says_how_much_is_needed(world: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Velmora news.")
    with pytest.raises(BadInputError, match="the widest layer has 128 columns"):
        quantized(world, tmp_path / "short.txt")


def test_without_texts_there_is_no_calibration(world: Path) -> None:
    with pytest.raises(UsageError, match="texts to calibrate on") as caught:
        list(audit(request(world, schemes=(SCHEME,), data=None), "run"))
    assert "--calibration" in caught.value.mend


def test_a_failing_backend_stops_no_other_scheme(world: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CalibratedScheme, "backend", lambda *_: "no_such_backend")
    events = quantized(world, texts, schemes=("nf4", SCHEME))
    (failed,) = (event for event in events if isinstance(event, SchemeFailed))
    assert failed.scheme == SCHEME
    assert failed.exit_code == 4
    assert "no_such_backend" in failed.message
    state = state_of(iter(events))
    assert "nf4" in state.verdicts
    assert state.end is not None
    assert state.end.exit_code == 4
