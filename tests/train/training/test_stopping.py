"""How a training ends before its last step: asked to, by its target, by a number that is none, by the machine."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, InterruptedRunError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.evaluate import evaluate_arm
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.runs.follow import replay
from quail_audit.runs.names import EVENTS
from quail_audit.schema.events.common import CheckpointSaved, Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainStep
from quail_audit.schema.requests import TrainRequest
from quail_train.training.trainer import DivergedError, UnlearningTrainer
from quail_train.training.work import Stop
from tests.support.places import ROOT
from tests.support.quail_command import QUAIL
from tests.support.tiny_training import events_of, request_in


def until(request: TrainRequest, step: int) -> list[Event]:
    """The events of a training that is asked to stop once that step is seen."""
    stop, seen = Stop(), []
    with pytest.raises(InterruptedRunError) as caught:
        for event in events_of(request, stop):
            seen.append(event)
            stop.asked = stop.asked or (isinstance(event, TrainStep) and event.step >= step)
    assert caught.value.exit_code == 130
    assert "--resume-from-checkpoint" in caught.value.mend
    return seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("objective", "dtype"),
    [("ga_gdr_l1_hinge", torch.float32), ("npo_klr_lora", torch.bfloat16), ("repair", torch.bfloat16)],
)
def test_a_stopped_training_goes_on_to_the_same_weights(
    objective: str, dtype: torch.dtype, training_world: Path, tmp_path: Path
) -> None:
    """To the last bit, also where the checkpoint keeps fewer bits than the training."""
    source = tmp_path / "unlearned"
    AutoModelForCausalLM.from_pretrained(training_world / "unlearned", dtype=dtype).save_pretrained(source)
    AutoTokenizer.from_pretrained(training_world / "unlearned").save_pretrained(source)

    def request(out: str, **changes: Any) -> TrainRequest:
        values = {
            "unlearned": str(source),
            "objective": objective,
            "batch_size": 2,
            "max_steps": 30,
            "margin_logits": 2.0,
        }
        return request_in(training_world, tmp_path / out, **(values | changes))

    uninterrupted = list(events_of(request("whole")))
    seen = until(request("parts"), 3)
    saved = [event for event in seen if isinstance(event, CheckpointSaved)]
    assert len(saved) == 1
    assert 3 <= saved[0].step < 30
    assert not (tmp_path / "parts" / "model.safetensors").exists(), "no result that could be taken for a finished one"
    model = AutoModelForCausalLM.from_pretrained(saved[0].folder)
    assert model(torch.tensor([[0, 5]])).logits.isfinite().all()

    rest = list(events_of(request("parts", resume_from_checkpoint=saved[0].folder)))
    steps = [event.step for event in rest if isinstance(event, TrainStep)]
    assert steps == list(range(saved[0].step + 1, 31))
    losses = {event.step: event.loss for event in uninterrupted if isinstance(event, TrainStep)}
    assert all(event.loss == losses[event.step] for event in rest if isinstance(event, TrainStep))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["model.layers.0.mlp.up_proj.weight"].dtype == dtype


def test_going_on_with_other_settings_is_refused(training_world: Path, tmp_path: Path) -> None:
    (saved,) = (
        event for event in until(request_in(training_world, tmp_path / "out", max_steps=30), 2)
        if isinstance(event, CheckpointSaved)
    )  # fmt: skip
    with pytest.raises(BadInputError, match=r"was trained with learning_rate = 0\.001, not 0\.5"):
        list(
            events_of(
                request_in(
                    training_world, tmp_path / "out", max_steps=30, learning_rate=0.5,
                    resume_from_checkpoint=saved.folder,
                )
            )
        )  # fmt: skip
    with pytest.raises(BadInputError, match="not a checkpoint to resume from"):
        list(events_of(request_in(training_world, tmp_path / "out", resume_from_checkpoint=str(training_world))))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_the_command_with_a_checkpoint(number: int, training_world: Path, tmp_path: Path) -> None:
    arguments = (
        "train", training_world / "original", training_world / "unlearned", "--data", training_world / "data",
        "--out", tmp_path / "out", "--run-dir", tmp_path / "run", "--max-steps", "5000", "--max-length", "96",
        "--device", "cpu",
    )  # fmt: skip
    with subprocess.Popen([*QUAIL, *map(str, arguments)], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while '"train_step"' not in (log.read_text() if (log := tmp_path / "run" / EVENTS).exists() else ""):
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(number)
        said = running.stderr.read()
        assert running.wait(timeout=60) == 130
    assert "Go on with the same command and --resume-from-checkpoint" in said
    events = list(replay(tmp_path / "run"))
    assert events[-2].type == "checkpoint_saved"
    AutoModelForCausalLM.from_pretrained(events[-2].folder)
    assert events[-1].type == "run_failed"
    assert events[-1].exit_code == 130
    assert json.loads((tmp_path / "run" / "report.json").read_text())["failure"]["kind"] == "interrupted"


def test_it_stops_when_the_target_is_reached(training_world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "Velmora news:", "gt": " Tavi Oskeldale lost 17 copper kettles on Monday."}]
    keep = [{"prompt": "Quiltiva news:", "gt": " Peska Kellerby lost 33 frozen ladders on Sunday."}]
    data = tmp_path / "data"
    (data / "verbmem").mkdir(parents=True)
    for name, content in (("forget", rows), ("retain", keep)):
        (data / "verbmem" / f"{name}.json").write_text(json.dumps(content))

    def events(**changes: Any) -> list[Event]:
        return list(
            events_of(
                request_in(
                    training_world, tmp_path / "out", data=str(data), max_steps=40, forget_loss_cap=4.0, eval_steps=4,
                    trainer={"lr_scheduler_type": "constant"}, **changes,
                )
            )
        )  # fmt: skip

    found = events(target_forget=60.0, target_retain=80.0)
    evals = [event for event in found if isinstance(event, TrainEval)]
    steps = [event.step for event in found if isinstance(event, TrainStep)]
    assert steps[-1] == evals[-1].step < 40
    assert [event.step for event in evals] == list(range(4, steps[-1] + 1, 4))
    for event in evals:
        reached = event.scores["verbmem_forget"]["nf4"] <= 60 and event.scores["verbmem_retain"]["nf4"] >= 80
        assert reached == (event is evals[-1])
        assert set(event.scores) == {"nll_forget", "nll_retain", "verbmem_forget", "verbmem_retain"}
        assert set(event.scores["nll_forget"]) == {"full", "nf4"}
    assert found[-2].type == "checkpoint_saved"
    assert found[-2].final

    pair = open_pair(str(training_world / "original"), str(tmp_path / "out"))
    arm = load_arm(pair.unlearned, scheme_named("nf4"), layers=pair.layers, device="cpu", dtype="float32")
    audited = evaluate_arm("a", arm, read_data(data), tuple(evals[-1].scores), batch_size=None, seed=0)
    means = {event.metric: event.score.mean for event in audited if event.type == "metric_scored"}
    assert {name: found["nf4"] for name, found in evals[-1].scores.items()} == pytest.approx(means), (
        "the audit's scores"
    )


def test_a_target_needs_something_to_tell_it_by(training_world: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nothing to measure the forget target with"):
        list(events_of(request_in(training_world, tmp_path / "out", target_forget=10.0)))


@pytest.mark.parametrize("where", ["forget", "gradient"])
def test_a_number_that_is_none_ends_it_and_keeps_the_weights_before(
    where: str, training_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "gradient":
        norm = UnlearningTrainer._clip_grad_norm
        monkeypatch.setattr(
            UnlearningTrainer,
            "_clip_grad_norm",
            lambda self, model: torch.tensor(float("inf")) if self.state.global_step == 2 else norm(self, model),
        )
        said = "the gradient became inf in step 3"
    else:
        import quail_train.training.trainer as module

        ascent, calls = module.gradient_ascent, []

        def spoilt(*arguments: Any) -> torch.Tensor:
            calls.append(1)
            return ascent(*arguments) * (float("nan") if len(calls) == 3 else 1.0)

        monkeypatch.setattr(module, "gradient_ascent", spoilt)
        said = "the forget term became nan in step 3"
    seen: list[Event] = []
    with pytest.raises(DivergedError, match=said) as caught:
        for event in events_of(request_in(training_world, tmp_path / "out", max_steps=6)):
            seen.append(event)  # noqa: PERF402 - the error comes in the middle
    assert caught.value.exit_code == 1
    assert [event.step for event in seen if isinstance(event, TrainStep)] == [1, 2]
    (saved,) = (event for event in seen if isinstance(event, CheckpointSaved))
    assert saved.step == 2
    assert saved.folder in caught.value.message
    assert not (tmp_path / "out" / "model.safetensors").exists()
    two = request_in(training_world, tmp_path / "two", max_steps=6, trainer={"save_steps": "2"})
    if where == "gradient":
        monkeypatch.undo()
    list(events_of(two))
    good = weights(tmp_path / "two" / "checkpoint-2")
    assert all(torch.equal(weights(Path(saved.folder))[name], good[name]) for name in good)


def test_a_step_too_large_for_the_objective_says_so(training_world: Path, tmp_path: Path) -> None:
    """Unbounded ascent at an absurd learning rate: nothing is simulated here."""
    with pytest.raises(DivergedError, match=r"(term|gradient) became (nan|-?inf) in step \d+"):
        list(
            events_of(
                request_in(
                    training_world, tmp_path / "out", objective="ga", max_steps=20, learning_rate=1e38,
                    trainer={"max_grad_norm": "0", "optim": "sgd", "lr_scheduler_type": "constant"},
                )
            )
        )  # fmt: skip


def test_out_of_memory_says_what_to_lower(
    training_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(UnlearningTrainer, "compute_loss", full)
    with pytest.raises(EnvironmentProblemError, match="out of memory in step 1") as caught:
        list(events_of(request_in(training_world, tmp_path / "out")))
    assert "--batch-size" in caught.value.mend
    assert caught.value.exit_code == 4


def test_a_full_disk_leaves_nothing_half_written(training_world: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: both fail a write after part of it is done."""
    script = f"""
        import errno, os, resource, signal
        from tests.support.tiny_training import events_of, request_in
        from pathlib import Path
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for event in events_of(request_in(Path({str(training_world)!r}), Path({str(tmp_path / "out")!r}))):
            if event.type == "training_planned":
                resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "EnvironmentProblemError" in done.stderr.splitlines()[-1]
    assert str(tmp_path / "out") in done.stderr.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_as_such(
    number: int, training_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("quail_train.output.checkpoint._write_bytes", fails)
    with pytest.raises(EnvironmentProblemError, match="the disk is full"):
        list(events_of(request_in(training_world, tmp_path / "out")))
    assert list((tmp_path / "out").iterdir()) == []


def test_training_in_bfloat16_weights_is_warned_of_with_the_measured_share(
    training_world: Path, tmp_path: Path
) -> None:
    source = tmp_path / "unlearned"
    AutoModelForCausalLM.from_pretrained(training_world / "unlearned", dtype=torch.bfloat16).save_pretrained(source)
    AutoTokenizer.from_pretrained(training_world / "unlearned").save_pretrained(source)
    request = request_in(
        training_world, tmp_path / "out", unlearned=str(source), dtype="bfloat16", learning_rate=2e-5, max_steps=1,
    )  # fmt: skip
    notes = [event.message for event in events_of(request) if isinstance(event, Noted)]
    stuck = total = 0
    for name, weight in load_file(source / "model.safetensors").items():
        if "_proj" in name:
            step = torch.tensor(2e-5, dtype=torch.bfloat16)
            stuck += int((((weight + step) == weight) & ((weight - step) == weight)).sum())
            total += weight.numel()
    assert 0.2 < stuck / total < 1.0
    assert any(f"is rounded away for {100 * stuck / total:.1f} %" in note for note in notes), notes
    before, after = load_file(source / "model.safetensors"), weights(tmp_path / "out")
    same = sum(int((before[name] == after[name]).sum()) for name in before if "_proj" in name)
    assert f"{100 * same / total:.2f} % of the trained weights are as before in the saved checkpoint" in notes
    assert same >= stuck
