"""`quail carry` on whole checkpoints: what is written, what is left alone, what is said, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer import Typer
from typer.testing import CliRunner

from quail_audit.cli.app import add_command
from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.runs.folder import new_run, read_report, read_request
from quail_audit.runs.follow import replay
from quail_audit.runs.record import record
from quail_audit.runs.state.cure import CureState
from quail_audit.schema.events.common import CheckpointSaved, Noted
from quail_audit.schema.events.cures import CarryPlanned, LayerCarried
from quail_audit.schema.requests import CarryRequest
from quail_train.carry.run import carry
from quail_train.cli.carry import carry as carry_command
from quail_train.cli.carry import run_carry
from quail_train.demo.confinement import bucket_of

FILE = "model.safetensors"


@pytest.fixture(scope="session")
def erased_world(training_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny original whose second block was changed inside its nf4 buckets."""
    folder = tmp_path_factory.mktemp("erased") / "unlearned"
    AutoModelForCausalLM.from_pretrained(training_world / "original").save_pretrained(folder)
    AutoTokenizer.from_pretrained(training_world / "original").save_pretrained(folder)
    tensors = load_file(folder / FILE)
    for name, weight in tensors.items():
        if "layers.1" in name and weight.dim() == 2:
            moved = weight + 0.3 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            bucket_of(weight, scheme_named("nf4")).confine(moved)
            tensors[name] = moved
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return folder


def request_in(training_world: Path, erased_world: Path, out: Path, **changes: Any) -> CarryRequest:
    return CarryRequest(
        **({"original": str(training_world / "original"), "unlearned": str(erased_world), "out": str(out)} | changes)
    )


def events_of(request: CarryRequest) -> list[Any]:
    return list(carry(request, "a-run", ("quail", "carry", "…")))


def same(first: Path, second: Path, name: str) -> bool:
    return torch.equal(load_file(first / FILE)[name], load_file(second / FILE)[name])


def test_erased_layers_are_carried_and_nothing_else_is_touched(
    training_world: Path, erased_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    events = events_of(request_in(training_world, erased_world, out))
    before, after = load_file(erased_world / FILE), load_file(out / FILE)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "layers.1" in name and before[name].dim() == 2}
    planned = next(event for event in events if isinstance(event, CarryPlanned))
    assert {f"{name}.weight" for name in planned.layers} == changed
    scheme = scheme_named("nf4")
    for event in (event for event in events if isinstance(event, LayerCarried)):
        assert event.survival_before == 0.0
        assert event.survival == pytest.approx(1.0, abs=0.2)
        assert event.mended_blocks == 0
        weight = after[f"{event.layer}.weight"]
        assert torch.equal(scheme.dequantize(scheme.quantize(weight)), weight)
    pair = open_pair(str(training_world / "original"), str(out))
    assert {pair_sums(*pair.read(layer), scheme).survival is None for layer in pair.layers} == {True, False}
    model = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.tensor([AutoTokenizer.from_pretrained(out)("Velmora")["input_ids"]])
    assert model(ids).logits.isfinite().all()
    assert {path.name for path in out.iterdir()} >= {FILE, "config.json", "tokenizer.json", "README.md"}
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "nothing is left over"


def test_a_packed_copy_has_the_carried_weights(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    events = events_of(request_in(training_world, erased_world, out, copy_4bit=str(copy)))
    assert [event.folder for event in events if isinstance(event, CheckpointSaved)] == [str(out), str(copy)]
    pair = open_pair(str(out), str(copy))
    carried = {event.layer for event in events if isinstance(event, LayerCarried)}
    for layer in pair.layers:
        if layer.name in carried:
            full, packed = pair.read(layer)
            assert torch.equal(full, packed), "every code was chosen already"
    with pytest.raises(UsageError, match="no 4-bit layout"):
        events_of(request_in(training_world, erased_world, tmp_path / "no", copy_4bit=str(copy), scheme="int8"))


def test_carrying_the_result_again_changes_nothing(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    events_of(request_in(training_world, erased_world, tmp_path / "once"))
    again = events_of(request_in(training_world, tmp_path / "once", tmp_path / "twice", seed=5))
    assert (tmp_path / "once" / FILE).read_bytes() == (tmp_path / "twice" / FILE).read_bytes()
    assert any("no layer is erased" in event.message for event in again if isinstance(event, Noted))
    events_of(request_in(training_world, tmp_path / "once", tmp_path / "all", seed=5, layers=("block:1",)))
    assert (tmp_path / "once" / FILE).read_bytes() == (tmp_path / "all" / FILE).read_bytes()


def test_a_seed_makes_the_same_file_again(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        events_of(request_in(training_world, erased_world, tmp_path / name, seed=seed))
    a, b, c = ((tmp_path / name / FILE).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_chosen_layers(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    events = events_of(
        request_in(training_world, erased_world, tmp_path / "out", layers=("role:q_proj",), way="feedback")
    )
    carried = [event.layer for event in events if isinstance(event, LayerCarried)]
    assert carried == [f"model.layers.{block}.self_attn.q_proj" for block in (0, 1)]
    untouched = next(event for event in events if isinstance(event, LayerCarried))
    assert untouched.survival_before is None
    with pytest.raises(UsageError, match="no layer matches"):
        events_of(request_in(training_world, erased_world, tmp_path / "no", layers=("block:9",)))
    with pytest.raises(BadInputError, match="needs an audit"):
        events_of(request_in(training_world, erased_world, tmp_path / "no", layers=("at-risk",)))


def test_weights_that_are_no_numbers_are_refused(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    AutoModelForCausalLM.from_pretrained(erased_world).save_pretrained(spoilt)
    tensors = load_file(spoilt / FILE)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, spoilt / FILE, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match="NaN or infinite"):
        events_of(request_in(training_world, spoilt, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_run_and_shows_it(
    training_world: Path, erased_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_in(training_world, erased_world, tmp_path / "out")
    run = tmp_path / "run"
    assert run_carry(request, typed=("quail", "carry", "…"), run_dir=run) == 0
    shown = capsys.readouterr()
    assert "survival, mean of the layers: 0.000 → " in shown.out
    assert "rounding to nearest gives every code and every scale again" in shown.out
    assert "7 layers" in shown.err
    assert read_request(run) == request
    state = CureState()
    for event in replay(run):
        state.apply(event)
    assert json.loads((run / "report.json").read_text()) == json.loads(state.report().model_dump_json())
    with pytest.raises(BadInputError, match="this is a run of quail carry"):
        read_report(run)
    with pytest.raises(UsageError, match="the folder is not empty"):
        run_carry(request, typed=(), run_dir=tmp_path / "second")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "7 layers" in card
    assert "`nf4`" in card


def test_a_stopped_run_leaves_no_half_of_a_checkpoint(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    request = request_in(training_world, erased_world, tmp_path / "out")
    with new_run(tmp_path / "run", request) as folder:
        events = record(carry(request, "a-run", ()), folder)
        for event in events:
            if isinstance(event, LayerCarried):
                break
        events.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_scheme_without_a_table_of_levels_is_refused(
    training_world: Path, erased_world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot carry onto the grid of mxfp4 yet") as caught:
        events_of(request_in(training_world, erased_world, tmp_path / "out", scheme="mxfp4"))
    assert "nf4" in caught.value.mend
    assert not (tmp_path / "out").exists()


def test_calibrated_on_texts(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = str(training_world / "data")
    events = events_of(request_in(training_world, erased_world, out, way="calibrated", calibrate=data))
    carried = [event for event in events if isinstance(event, LayerCarried)]
    assert len(carried) == 7
    assert all(event.output_error is not None and event.output_error <= 1.0 for event in carried)
    scheme = scheme_named("nf4")
    before, after = load_file(erased_world / FILE), load_file(out / FILE)
    for event in carried:
        weight = after[f"{event.layer}.weight"]
        assert torch.equal(scheme.dequantize(scheme.quantize(weight)), weight)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"{event.layer}.weight" for event in carried
    }
    again = request_in(training_world, out, tmp_path / "twice", way="calibrated", calibrate=data, layers=("block:1",))
    events_of(again)
    assert (out / FILE).read_bytes() == (tmp_path / "twice" / FILE).read_bytes()
    events_of(request_in(training_world, out, tmp_path / "none", way="calibrated", calibrate=data))
    assert (out / FILE).read_bytes() == (tmp_path / "none" / FILE).read_bytes(), "nothing is erased any more"


def test_a_way_and_its_texts_go_together(training_world: Path, erased_world: Path, tmp_path: Path) -> None:
    paths = str(training_world / "original"), str(erased_world), str(tmp_path / "out")
    with pytest.raises(UsageError, match="needs texts"):
        carry_command(*paths, way="calibrated")
    with pytest.raises(UsageError, match="do not go together"):
        carry_command(*paths, way="random", calibration="texts.txt")
    with pytest.raises(UsageError, match="'calibrated', 'random' or 'feedback'"):
        carry_command(*paths, way="somehow")


def test_texts_are_named_as_for_an_audit_or_by_the_older_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CarryRequest] = []

    def record_request(request: CarryRequest, **_: Any) -> int:
        asked.append(request)
        return 0

    monkeypatch.setattr("quail_train.cli.carry.run_carry", record_request)
    app = Typer()
    add_command(carry_command, to=app)
    for option in ("--calibration", "--calibrate"):
        assert CliRunner().invoke(app, ["a", "b", "--out", "o", option, "texts.txt"]).exit_code == 0
    assert [(request.way, request.calibrate) for request in asked] == 2 * [("calibrated", "texts.txt")]
