"""Pairs whose vocabularies were resized on one side, or of which one stores a head."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.models.load import _load_base
from tests.support.tiny_checkpoints import CONFIGS, llama_config, save

TABLES = {
    "llama": "model.embed_tokens.weight, lm_head.weight",
    "gpt2": "transformer.wte.weight",
    "gpt-neox": "gpt_neox.embed_in.weight, lm_head.weight",
    "opt": "model.decoder.embed_tokens.weight",
}


@pytest.mark.parametrize(
    ("family", "rows", "which"),
    [
        ("llama", 104, "rows 96 to 103"),
        ("gpt2", 97, "row 96"),
        ("gpt-neox", 90, "rows 90 to 95"),
        ("opt", 97, "row 96"),
    ],
)
def test_rows_of_one_side_are_named_and_layers_compared(tmp_path: Path, family: str, rows: int, which: str) -> None:
    original = save(tmp_path / "original", deepcopy(CONFIGS[family]))
    resized = save(tmp_path / "resized", deepcopy(CONFIGS[family]), seed=1)  # resizing changes it
    resized.resize_token_embeddings(rows, mean_resizing=False)
    resized.save_pretrained(tmp_path / "resized")
    pair = open_pair(str(tmp_path / "original"), str(tmp_path / "resized"))
    (note,) = pair.notes
    assert f"no {which} of {TABLES[family]}. Layers" in note
    assert pair.layers == open_pair(str(tmp_path / "original"), str(tmp_path / "original")).layers
    for layer in pair.layers:
        ours, theirs = pair.read(layer)
        stored = [model.get_submodule(layer.name).weight for model in (original, resized)]
        assert torch.equal(ours, stored[0].T if layer.transposed else stored[0])
        assert torch.equal(theirs, stored[1].T if layer.transposed else stored[1])
    arm, _ = _load_base(pair.unlearned)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "resized")
    ids = torch.arange(20).unsqueeze(0)
    assert torch.equal(arm(ids).logits, plain(ids).logits)
    assert arm(ids).logits.shape[-1] == rows


def test_a_resized_head_is_not_measured_if_it_would_be_rounded(tmp_path: Path) -> None:
    save(tmp_path / "original")
    model = save(tmp_path / "padded")
    model.resize_token_embeddings(104, mean_resizing=False)
    model.save_pretrained(tmp_path / "padded")
    names = {
        layer.name
        for layer in open_pair(str(tmp_path / "original"), str(tmp_path / "padded"), skip_modules=("none",)).layers
    }
    assert "lm_head" not in names
    same = open_pair(str(tmp_path / "original"), str(tmp_path / "original"), skip_modules=("none",))
    assert {layer.name for layer in same.layers} - names == {"lm_head"}


@pytest.mark.parametrize("stored", ["original", "unlearned"])
def test_a_head_of_one_side_is_named(tmp_path: Path, stored: str) -> None:
    for side in ("original", "unlearned"):
        save(tmp_path / side, llama_config(tie_word_embeddings=side != stored))
    pair = open_pair(str(tmp_path / "original"), str(tmp_path / "unlearned"))
    (note,) = pair.notes
    assert note.startswith(f"{tmp_path / stored}: only it stores lm_head.weight")
    assert len(pair.layers) == 14


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (llama_config(vocab_size=100, hidden_size=32), "of other shapes are model.embed_tokens.weight"),
        (llama_config(vocab_size=100, intermediate_size=100), "of other shapes are model.layers.0.mlp.gate_proj"),
    ],
)
def test_another_model_is_refused_whatever_its_vocabulary(tmp_path: Path, config: PretrainedConfig, said: str) -> None:
    save(tmp_path / "original")
    save(tmp_path / "other", config)
    with pytest.raises(BadInputError, match=said):
        open_pair(str(tmp_path / "original"), str(tmp_path / "other"))


def test_positions_of_another_number_are_no_vocabulary(tmp_path: Path) -> None:
    config = deepcopy(CONFIGS["opt"])
    save(tmp_path / "original", config)
    longer = deepcopy(config)
    longer.max_position_embeddings += 8
    save(tmp_path / "longer", longer)
    with pytest.raises(BadInputError, match=r"of other shapes are model\.decoder\.embed_positions\.weight"):
        open_pair(str(tmp_path / "original"), str(tmp_path / "longer"))
