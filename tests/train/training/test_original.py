"""The original from disk and in 4 bits: what is exact, and that the error that is said is the error there is."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.training import TrainStep
from quail_train.data.batches import collate
from quail_train.data.samples import TrainingSample
from quail_train.objectives.terms import nll, predictions
from quail_train.training.original import precompute
from tests.support.tiny_language_models import POSTS
from tests.support.tiny_training import events_of, request_in


def samples_of(tokenizer: PreTrainedTokenizerFast) -> list[TrainingSample]:
    rows = [tuple(tokenizer(post)["input_ids"]) for post in POSTS]
    return [TrainingSample(row, row, number) for number, row in enumerate(rows)]


@pytest.mark.parametrize("kept", [1, 8, 10_000])
def test_what_is_kept_is_exact_and_the_error_is_as_said(
    kept: int, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    samples = samples_of(tokenizer)
    stored = precompute(llama, samples, kept, tmp_path, torch.device("cpu"))
    batch = collate([(samples[4], None), (samples[1], None)])
    found = stored.logits(batch["input_ids"], batch["samples"])
    with torch.no_grad():
        exact = llama(batch["input_ids"]).logits
    ours, theirs = predictions(found, batch["labels"]), predictions(exact, batch["labels"])
    torch.testing.assert_close(nll(ours), nll(theirs), rtol=1e-4, atol=1e-4)
    if kept > exact.shape[-1]:
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-4)
    elif kept > 1:
        largest = theirs.logits.argmax(-1, keepdim=True)
        torch.testing.assert_close(
            ours.logits.gather(-1, largest), theirs.logits.gather(-1, largest), rtol=0, atol=1e-4
        )

    off, places = 0.0, 0
    for sample in samples:
        with torch.no_grad():
            whole = llama(torch.tensor([sample.ids])).logits[0]
        off += float((stored.logits(torch.tensor([sample.ids]), torch.tensor([sample.number]))[0] - whole).abs().sum())
        places += len(sample.ids)
    said = re.search(r"off by (\S+) on average", stored.note)
    assert said is not None
    if kept < exact.shape[-1]:
        assert float(said[1]) == pytest.approx(off / places / (exact.shape[-1] - kept), rel=0.06)


def losses(world: Path, out: Path, **changes: Any) -> tuple[list[float], list[str]]:
    request = request_in(
        world, out, objective="npo_klr_hinge", margin_logits=1.0, max_steps=3, learning_rate=1e-4, **changes
    )
    events = list(events_of(request))
    steps = [event.loss for event in events if isinstance(event, TrainStep)]
    return steps, [event.message for event in events if isinstance(event, Noted)]


def test_a_training_on_logits_from_disk(training_world: Path, tmp_path: Path) -> None:
    live, _ = losses(training_world, tmp_path / "live")
    whole, _ = losses(training_world, tmp_path / "whole", reference="precomputed", reference_top_k=10_000)
    assert whole == pytest.approx(live, abs=1e-4)
    some, notes = losses(training_world, tmp_path / "some", reference="precomputed", reference_top_k=100)
    assert some == pytest.approx(live, rel=0.05)
    assert any("100 of" in note and "% of the probability" in note for note in notes)


def test_a_training_against_the_original_in_4_bits(training_world: Path, tmp_path: Path) -> None:
    live, _ = losses(training_world, tmp_path / "live")
    rounded, notes = losses(training_world, tmp_path / "rounded", reference="4bit")
    assert rounded != live
    (note,) = (note for note in notes if "in 4 bits (nf4)" in note)
    pair = open_pair(str(training_world / "original"), str(training_world / "unlearned"))
    scheme = scheme_named("nf4")
    sides = [load_arm(pair.original, one, layers=pair.layers, device="cpu", dtype="float32") for one in (None, scheme)]
    errors = []
    for post in POSTS[:3]:
        ids = torch.tensor([[*sides[0].tokenizer(post)["input_ids"], 1][:96]])
        with torch.no_grad():
            errors.append((sides[0].model(ids).logits - sides[1].model(ids).logits)[0, :-1].abs())
    said = re.search(r"off by (\S+) on average, (\S+) at most", note)
    assert said is not None
    assert float(said[1]) == pytest.approx(float(torch.cat(errors).mean()), rel=0.06)
    assert float(said[2]) == pytest.approx(float(torch.cat(errors).max()), rel=0.06)


def test_no_room_for_the_logits(training_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(EnvironmentProblemError, match="the disk is full") as caught:
        losses(training_world, tmp_path / "out", reference="precomputed")
    assert "--reference-top-k" in caught.value.mend
