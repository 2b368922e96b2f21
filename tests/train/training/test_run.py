"""Whole trainings of a tiny model: what is written, what is left alone, and what is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.schema.events.common import CheckpointSaved, Noted
from quail_audit.schema.events.training import TrainingPlanned, TrainStep
from quail_audit.schema.requests import TrainRequest
from quail_train.objectives.terms import nll, predictions
from tests.support.tiny_language_models import POSTS
from tests.support.tiny_training import events_of, request_in


def trained(request: TrainRequest) -> list[Any]:
    return list(events_of(request))


def steps_of(events: list[Any]) -> list[TrainStep]:
    return [event for event in events if isinstance(event, TrainStep)]


def test_every_weight_that_was_not_chosen_is_the_same_to_the_last_bit(training_world: Path, tmp_path: Path) -> None:
    events = trained(request_in(training_world, tmp_path / "out", layers=("name:*.1.mlp.*_proj", "role:q_proj")))
    before = load_file(training_world / "unlearned" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name].view(torch.int32), after[name].view(torch.int32))}
    expected = {f"model.layers.1.mlp.{role}_proj.weight" for role in ("gate", "up", "down")}
    expected |= {f"model.layers.{block}.self_attn.q_proj.weight" for block in (0, 1)}
    assert moved == expected
    planned = next(event for event in events if isinstance(event, TrainingPlanned))
    assert {f"{layer}.weight" for layer in planned.layers} == expected
    assert planned.weights == sum(before[name].numel() for name in expected)


def test_the_result_loads_with_its_tokenizer(training_world: Path, tmp_path: Path) -> None:
    events = trained(request_in(training_world, tmp_path / "out"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    original = AutoTokenizer.from_pretrained(training_world / "original")
    assert tokenizer.get_vocab() == original.get_vocab()
    assert model(torch.tensor([tokenizer("Velmora")["input_ids"]])).logits.isfinite().all()
    assert isinstance(events[-2], CheckpointSaved)
    assert events[-2].final
    assert events[-1].type == "run_finished"
    assert events[-1].exit_code == 0


def test_events_tell_the_steps(training_world: Path, tmp_path: Path) -> None:
    events = trained(
        request_in(
            training_world,
            tmp_path / "out",
            objective="ga_gdr_l1_hinge",
            margin_logits=0.5,
            l1_weight=1e-6,
            max_steps=3,
        )
    )
    steps = steps_of(events)
    assert [step.step for step in steps] == [1, 2, 3]
    assert [step.epoch for step in steps] == [1.0, 2.0, 3.0], "three forget samples, three to a step"
    for step in steps:
        assert set(step.terms) == {"forget", "retain", "hinge", "l1"}
        weighed = step.terms["forget"] + step.terms["retain"] + step.terms["hinge"] + 1e-6 * step.terms["l1"]
        assert step.loss == pytest.approx(weighed, rel=1e-5)
        assert step.hinge_satisfied is not None
        assert step.gradient_norm is not None
    assert steps[0].learning_rate == pytest.approx(1e-3)


def test_the_first_step_is_worked_by_hand(training_world: Path, tmp_path: Path) -> None:
    """Terms of step one are those of the model it began with, on the planned samples."""
    (step,) = steps_of(trained(request_in(training_world, tmp_path / "out", max_steps=1, retain_weight=2.0)))
    model = LlamaForCausalLM.from_pretrained(training_world / "unlearned")
    tokenizer = AutoTokenizer.from_pretrained(training_world / "unlearned")
    losses = {}
    for name, posts in (("forget", POSTS[:3]), ("retain", POSTS[3:])):
        each = []
        for post in posts:
            ids = torch.tensor([[*tokenizer(post)["input_ids"], 1][:96]])
            each.append(nll(predictions(model(ids).logits, ids)))
        losses[name] = float(torch.cat(each).detach().mean())
    assert step.terms["forget"] == pytest.approx(-losses["forget"], rel=1e-4)
    assert step.terms["retain"] == pytest.approx(losses["retain"], rel=1e-4)
    assert step.loss == pytest.approx(2 * losses["retain"] - losses["forget"], rel=1e-3)


def test_training_may_begin_with_the_original(training_world: Path, tmp_path: Path) -> None:
    trained(request_in(training_world, tmp_path / "out", init="original", layers=("block:0",)))
    before = load_file(training_world / "original" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(before["model.layers.1.mlp.up_proj.weight"], after["model.layers.1.mlp.up_proj.weight"])
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_types_and_files_are_kept(training_world: Path, tmp_path: Path) -> None:
    """A bfloat16 checkpoint of two files comes out as one."""
    source = tmp_path / "unlearned"
    model = LlamaForCausalLM.from_pretrained(training_world / "unlearned", dtype=torch.bfloat16)
    model.save_pretrained(source, max_shard_size="150KB")
    AutoTokenizer.from_pretrained(training_world / "unlearned").save_pretrained(source)
    files = sorted(path.name for path in source.glob("*.safetensors*"))
    assert len(files) > 2
    trained(request_in(training_world, tmp_path / "out", unlearned=str(source), layers=("block:1",)))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors*")) == files
    for file in files[:-1]:
        before, after = load_file(source / file), load_file(tmp_path / "out" / file)
        for name, tensor in before.items():
            assert after[name].dtype == torch.bfloat16
            assert torch.equal(tensor, after[name]) == ("layers.1" not in name or tensor.dim() == 1)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_margin_is_the_paper_s_or_as_given(training_world: Path, tmp_path: Path) -> None:
    def planned(**changes: Any) -> TrainingPlanned:
        for event in events_of(request_in(training_world, tmp_path / "out", objective="hinge_gdr", **changes)):
            if isinstance(event, TrainingPlanned):
                return event
        raise AssertionError("never planned")

    auto = planned(margin_scale=3.0)
    assert auto.margin_logits is not None
    weight = load_file(training_world / "unlearned" / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert 0.05 < auto.quantization_steps["model.layers.1.mlp.up_proj"] / float(weight.abs().mean()) < 1.0
    mean = sum(auto.quantization_steps.values()) / len(auto.quantization_steps)
    assert auto.margin_logits == pytest.approx(3.0 * mean / 2, rel=0.2), "layers of about one step"
    assert planned(margin_logits=2.0, margin_scale=1.5).margin_logits == 3.0


def test_an_objective_that_nobody_knows(training_world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown objective") as caught:
        trained(request_in(training_world, tmp_path / "out", objective="ga_grd"))
    assert "Did you mean ga_gdr?" in caught.value.mend


def test_arguments_of_the_trainer(training_world: Path, tmp_path: Path) -> None:
    events = trained(
        request_in(training_world, tmp_path / "out", trainer={"lr_scheduler_type": "constant", "weight_decay": "0.1"})
    )
    assert {step.learning_rate for step in steps_of(events)} == {1e-3}
    with pytest.raises(UsageError, match="no_such_thing"):
        trained(request_in(training_world, tmp_path / "out", trainer={"no_such_thing": "1"}))
    with pytest.raises(UsageError, match="is set by quail train itself"):
        trained(request_in(training_world, tmp_path / "out", trainer={"output_dir": "/elsewhere"}))


def test_accumulated_batches_are_one_step(training_world: Path, tmp_path: Path) -> None:
    """Samples of one length, so that the mean of three batches' means is the mean of all."""
    tokenizer = AutoTokenizer.from_pretrained(training_world / "unlearned")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    for name, posts in (("forget", POSTS[:3]), ("retain", POSTS[3:])):
        ids = tokenizer(" ".join(posts))["input_ids"][: 3 * (24 - 1)]  # room for the end token is kept
        (tmp_path / "data" / "raw" / f"{name}.txt").write_text(tokenizer.decode(ids))
    for name, extra in (("whole", {}), ("parts", {"gradient_accumulation_steps": "3"})):
        request = request_in(
            training_world,
            tmp_path / name,
            data=str(tmp_path / "data"),
            max_length=24,
            learning_rate=0.1,
            trainer={"optim": "sgd", **extra},
        )
        assert len(steps_of(trained(request))) == 2
    before = load_file(training_world / "unlearned" / "model.safetensors")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, weight in whole.items():
        torch.testing.assert_close(weight, parts[name], atol=1e-6, rtol=1e-5)
    moved = whole["model.layers.1.mlp.up_proj.weight"] - before["model.layers.1.mlp.up_proj.weight"]
    assert moved.abs().max() > 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "repair", "hinge_precision": "quantized"},
        {"objective": "sure"},
        {"objective": "ga_gdr_l1"},
        {"target_forget": 5.0},
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_cut_up(
    changes: dict[str, Any], training_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="needs unsharded weights"):
        trained(request_in(training_world, tmp_path / "out", **changes))


def test_layers_at_risk_need_a_report(training_world: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="needs an audit"):
        trained(request_in(training_world, tmp_path / "out", layers=("at-risk",)))


def test_another_tokenizer_is_refused(training_world: Path, tmp_path: Path) -> None:
    source = tmp_path / "unlearned"
    source.mkdir()
    for path in (training_world / "unlearned").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    text = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(text.replace('"</s>"', '"</end>"'))
    with pytest.raises(BadInputError, match="its tokenizer is not that of"):
        trained(request_in(training_world, tmp_path / "out", unlearned=str(source)))


def test_notes_of_the_data_are_passed_on(training_world: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("forget", "retain"):
        (tmp_path / "data" / f"{name}.jsonl").write_text('{"text": "Velmora news: Tavi"}')
    events = trained(request_in(training_world, tmp_path / "out", data=str(tmp_path / "data"), max_steps=1))
    assert any(isinstance(event, Noted) and "one sample" in event.message for event in events)


def test_a_checkpoint_with_other_tensors_keeps_them(training_world: Path, tmp_path: Path) -> None:
    """What the model has no use for is copied all the same."""
    source = tmp_path / "unlearned"
    source.mkdir()
    for path in (training_world / "unlearned").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors") | {"extra.table": torch.arange(5)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    trained(request_in(training_world, tmp_path / "out", unlearned=str(source), max_steps=1))
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["extra.table"], torch.arange(5))
