"""Pairs of which one side's vocabulary was padded or cut: what is compared, written and refused."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaForSequenceClassification,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from quail_audit.core.errors import BadInputError
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.training import TrainingPlanned, TrainStep
from quail_train.data.batches import collate
from quail_train.data.samples import TrainingSample
from quail_train.training.original import _live_original
from tests.support.tiny_language_models import llama_config
from tests.support.tiny_training import events_of, request_in

Trained = tuple[list[TrainStep], list[str], dict[str, torch.Tensor]]  # steps, notes, the tensors that were written
PADDED = 7
LACKED = 200  # so many that every post has one of them
TABLES = {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}


@pytest.fixture(scope="module")
def phi_world(
    tmp_path_factory: pytest.TempPathFactory, training_world: Path, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A pair of models whose head has a bias, so that a test can forbid a padding row."""
    root = tmp_path_factory.mktemp("phi")
    shutil.copytree(training_world / "data", root / "data")
    config = PhiConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokenizer)
    )
    for name, moved in (("original", 0.0), ("unlearned", 0.05)):
        torch.manual_seed(0)
        model = PhiForCausalLM(config)
        with torch.no_grad():
            model.model.layers[0].mlp.fc1.weight.add_(moved)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def resize(source: Path, folder: Path, rows: int, bias: float = 0.0) -> Any:
    """Save a checkpoint with so many rows more, or fewer; the head's bias of new ones is given."""
    shutil.copytree(source, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    known = model.config.vocab_size
    model.resize_token_embeddings(known + rows, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.bias[known:] = bias
    model.save_pretrained(folder)
    return model


def trained(world: Path, out: Path, **changes: Any) -> Trained:
    settings = {"max_steps": 1, "learning_rate": 1e-4, "margin_logits": 5.0, "l1_weight": 1e-6, **changes}
    events = list(events_of(request_in(world, out, **settings)))
    steps = [event for event in events if isinstance(event, TrainStep)]
    return steps, [event.message for event in events if isinstance(event, Noted)], load_file(out / "model.safetensors")


def is_planned(world: Path, out: Path, **changes: Any) -> bool:
    return any(isinstance(event, TrainingPlanned) for event in events_of(request_in(world, out, **changes)))


REPAIR = {"objective": "repair", "hinge": "centred", "hinge_precision": "quantized", "retain_weight": 2.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "repair": REPAIR,
    "paper": {"objective": "ga_gdr_l1_hinge"},
    "npo, KL": {"objective": "npo_klr"},
    "npo, KL, precomputed": {"objective": "npo_klr", "reference": "precomputed", "reference_top_k": 9999},
    "hinge, KL": {"objective": "hinge_klr", "hinge": "log-probability"},
}
NEVER = -1e4  # bias of a token that no model of this size gives a probability above 0


@pytest.fixture(scope="module")
def plain(phi_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Train the pair as it is by one of OBJECTIVES."""
    return cache(lambda name: trained(phi_world, tmp_path_factory.mktemp("plain") / "out", **OBJECTIVES[name]))


@pytest.mark.parametrize(
    ("side", "bias", "objective"),
    [
        ("original", 3.0, "repair"),
        ("original", 3.0, "paper"),
        pytest.param("original", 3.0, "npo, KL", marks=pytest.mark.slow),
        pytest.param("original", NEVER, "npo, KL, precomputed", marks=pytest.mark.slow),
        ("unlearned", NEVER, "repair"),
        ("unlearned", NEVER, "paper"),
        pytest.param("unlearned", 3.0, "npo, KL", marks=pytest.mark.slow),
        pytest.param("unlearned", 3.0, "hinge, KL", marks=pytest.mark.slow),
    ],
)
def test_padding_one_side_changes_no_step(
    phi_world: Path, tmp_path: Path, plain: Callable[[str], Trained], side: str, bias: float, objective: str
) -> None:
    rows = resize(phi_world / side, tmp_path / side, PADDED, bias).config.vocab_size - PADDED
    plain_steps, plain_notes, expected = plain(objective)
    steps, notes, found = trained(phi_world, tmp_path / "out", **{side: str(tmp_path / side)}, **OBJECTIVES[objective])
    assert steps[0].terms == pytest.approx(plain_steps[0].terms, rel=1e-5, abs=1e-5)
    assert steps[0].gradient_norm == pytest.approx(plain_steps[0].gradient_norm, rel=1e-4)
    for name in found.keys() - TABLES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    before = load_file((tmp_path if side == "unlearned" else phi_world) / "unlearned" / "model.safetensors")
    for name in TABLES:
        assert torch.equal(found[name], before[name]), "its own table is written"
    assert any(f"rows {rows} to {rows + PADDED - 1} of " in note for note in notes)
    said = f"over the first {rows} tokens, which both models have"
    assert any(said in note for note in notes)
    assert not any("which both models have" in note for note in plain_notes)


def test_a_token_that_the_original_lacks_is_refused_by_name(phi_world: Path, tmp_path: Path) -> None:
    cut, mended = tmp_path / "cut", tmp_path / "mended"
    rows = resize(phi_world / "original", cut, -LACKED).config.vocab_size + LACKED
    changes = {"original": str(cut), "objective": "npo_klr"}
    with pytest.raises(
        BadInputError, match=rf"6 of 6 samples hold tokens that {cut} lacks, which has {rows - LACKED}:"
    ) as caught:
        is_planned(phi_world, tmp_path / "out", **changes)
    assert f"resize_token_embeddings({rows})" in str(caught.value.mend)
    assert is_planned(phi_world, tmp_path / "out", **{**changes, "objective": "simnpo_gdr"})
    resize(cut, mended, LACKED)
    assert is_planned(phi_world, tmp_path / "out", **{**changes, "original": str(mended)})


def test_a_padding_token_that_only_one_model_has_is_not_fed_to_the_other(
    phi_world: Path, tmp_path: Path, plain: Callable[[str], Trained]
) -> None:
    model = resize(phi_world / "unlearned", tmp_path / "unlearned", 1, 3.0)
    model.config.pad_token_id = model.config.vocab_size - 1
    model.config.save_pretrained(tmp_path / "unlearned")
    changes = {"unlearned": str(tmp_path / "unlearned"), **OBJECTIVES["npo, KL"]}
    found, _, _ = trained(phi_world, tmp_path / "out", **changes)
    assert found[0].terms == pytest.approx(plain("npo, KL")[0][0].terms, rel=1e-5, abs=1e-5)


def test_a_classifier_reads_its_own_padding() -> None:
    """A decoder finds a text's last token by its own padding token, which need not be the trained model's."""
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(llama_config(60, pad_token_id=2)).eval()
    samples = [TrainingSample((5, 6, 7), (), 0, label=0), TrainingSample((8,), (), 1, label=1)]
    found = _live_original(model)(collate([(sample, None) for sample in samples], padding=60), slice(None))
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([sample.ids])).logits for sample in samples])
    torch.testing.assert_close(found, alone)
