"""Against what transformers' bitsandbytes integration really converts when it loads the same checkpoint."""

import contextlib
import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig, PreTrainedModel

from quail_audit.core.errors import BadInputError, QuailError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.model.architecture import lay_out
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.checkpoints.weight_files import TensorInfo
from tests.support.tiny_checkpoints import CONFIGS, build, gpt2_config, llama_config, save


def converted(folder: Path, skip_modules: tuple[str, ...] | None = None, auto: Any = AutoModelForCausalLM) -> list[str]:
    """The modules whose weights are really stored in 4 bits once the checkpoint is loaded so."""
    model: PreTrainedModel = auto.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, llm_int8_skip_modules=None if skip_modules is None else list(skip_modules)
        ),
    )
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, bnb.nn.Linear4bit) and isinstance(module.weight, bnb.nn.Params4bit)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_those_that_bitsandbytes_converts(tmp_path: Path, name: str) -> None:
    save(tmp_path, CONFIGS[name])
    layers = open_pair(str(tmp_path), str(tmp_path)).layers
    modules = [layer.name for layer in layers if layer.part is None]  # it leaves fused experts, which other tools round
    assert modules == converted(tmp_path)
    assert len(modules) >= 2 * 4


@pytest.mark.parametrize("skip", [(), ("mlp",), ("model.layers.0",), ("q_proj", "lm_head"), ("model.layers.*.mlp",)])
@pytest.mark.parametrize("tied", [True, False])
def test_skip_modules_mean_what_they_mean_to_transformers(tmp_path: Path, skip: tuple[str, ...], tied: bool) -> None:
    save(tmp_path, llama_config(tie_word_embeddings=tied))
    layers = open_pair(str(tmp_path), str(tmp_path), skip_modules=skip).layers
    assert [layer.name for layer in layers] == converted(tmp_path, skip)


def test_a_classifier_keeps_its_head(tmp_path: Path) -> None:
    save(tmp_path, llama_config(architectures=["LlamaForSequenceClassification"], num_labels=3, pad_token_id=0))
    pair = open_pair(str(tmp_path), str(tmp_path))
    assert pair.original.layout.architecture == "LlamaForSequenceClassification"
    assert [layer.name for layer in pair.layers] == converted(tmp_path, auto=AutoModelForSequenceClassification)
    assert pair.left_in_full_precision == ("model.embed_tokens", "score")
    assert not pair.notes


def test_conv1d_weights_are_turned_as_bitsandbytes_turns_them(tmp_path: Path) -> None:
    """The 4-bit weight of the loaded model is that of the matrix as the pair reads it."""
    save(tmp_path, gpt2_config())
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    pair = open_pair(str(tmp_path), str(tmp_path))
    for layer in pair.layers:
        assert layer.transposed
        weight, _ = pair.read(layer)
        assert weight.is_contiguous()
        assert tuple(weight.shape) == layer.shape
        packed, _ = bnb.functional.quantize_4bit(weight, quant_type="nf4")
        assert torch.equal(packed, loaded.get_submodule(layer.name).weight.data)


def test_embeddings_and_head_are_named_as_left_alone(tmp_path: Path) -> None:
    save(tmp_path / "llama")
    save(tmp_path / "gpt2", gpt2_config())
    llama = open_pair(str(tmp_path / "llama"), str(tmp_path / "llama"))
    gpt2 = open_pair(str(tmp_path / "gpt2"), str(tmp_path / "gpt2"))
    assert llama.left_in_full_precision == ("model.embed_tokens", "lm_head")
    assert gpt2.left_in_full_precision == ("transformer.wte", "transformer.wpe", "lm_head")


def test_a_checkpoint_of_the_bare_model_has_the_same_layers(tmp_path: Path) -> None:
    """Saved without its head, its names lack the prefix "model."; so do GPT-2's on the hub."""
    model = save(tmp_path / "whole", llama_config(tie_word_embeddings=True))
    model.base_model.save_pretrained(tmp_path / "bare")
    bare = open_checkpoint(str(tmp_path / "bare"))
    assert "layers.0.mlp.down_proj.weight" in bare.names
    pair = open_pair(str(tmp_path / "whole"), str(tmp_path / "bare"))
    for layer in pair.layers:
        ours, theirs = pair.read(layer)
        assert torch.equal(ours, theirs)
    assert not pair.notes


def test_a_renamed_head_is_found(tmp_path: Path) -> None:
    """GPT-NeoX checkpoints call embed_out what the model calls lm_head."""
    save(tmp_path, CONFIGS["gpt-neox"])
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.layout.tensor_of["lm_head.weight"] == "embed_out.weight"
    assert not checkpoint.notes


def test_a_missing_untied_head_is_noted(tmp_path: Path) -> None:
    model = build(llama_config())
    model.base_model.save_pretrained(tmp_path)
    assert "lm_head.weight" in " ".join(open_checkpoint(str(tmp_path)).notes)


def test_without_a_config_the_names_tell(tmp_path: Path) -> None:
    save(tmp_path)
    expected = [layer.name for layer in open_pair(str(tmp_path), str(tmp_path)).layers]
    (tmp_path / "config.json").unlink()
    pair = open_pair(str(tmp_path), str(tmp_path))
    assert sorted(layer.name for layer in pair.layers) == sorted(expected)
    assert any("names and shapes" in note for note in pair.notes)
    assert set(pair.left_in_full_precision) == {"model.embed_tokens", "lm_head"}


def test_skip_modules_are_honoured_by_names_too() -> None:
    tensors = {
        f"layers.{index}.{role}.weight": TensorInfo((8, 8), torch.float32)
        for index in (0, 1)
        for role in ("up", "down")
    }
    layout = lay_out({"model_type": "never-heard-of"}, tensors, ("layers.0",))
    assert [matrix.module for matrix in layout.rounded] == ["layers.1.up", "layers.1.down"]
    assert "never-heard-of" in layout.note


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """A known type is built from transformers' own code, an unknown one not at all."""
    save(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = tmp_path / "config.json"
    with_code = config.read_text().replace("{", '{"auto_map": {"AutoModelForCausalLM": "evil.M"},', 1)
    config.write_text(with_code)
    assert open_checkpoint(str(tmp_path)).layout.architecture == "LlamaForCausalLM"
    config.write_text(with_code.replace('"llama"', '"evil"'))
    assert open_checkpoint(str(tmp_path)).layout.architecture is None


@pytest.mark.parametrize(
    ("change", "said", "mend"),
    [
        ({"num_hidden_layers": 3}, "does not hold|do not hold", "give the config.json that was saved with them"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers", "give the config.json that was saved with them"),
        ({"num_labels": 10**9}, "num_labels", "give the config.json that was saved with them"),
        ({"num_hidden_layers": "many"}, "transformers can build", "Compare it with the config.json"),
        ({"hidden_size": 128}, "asks for", "give the config.json that was saved with them"),
        ({"hidden_act": "nonsense"}, "transformers can build", "Compare it with the config.json"),
    ],
)
def test_a_config_that_does_not_fit_is_bad_input(
    tmp_path: Path, change: dict[str, object], said: str, mend: str
) -> None:
    save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(BadInputError, match=said) as caught:
        open_checkpoint(str(tmp_path))
    assert mend in str(caught.value.mend)


nonsense = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**12),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=100)
@given(data=st.data())
def test_any_config_is_a_layout_or_bad_input(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CONFIGS)))
    config = CONFIGS[name].to_dict()
    tensors = {f"{index}.weight": TensorInfo((96, 64), torch.float32) for index in range(8)}
    for key in data.draw(st.lists(st.sampled_from([*sorted(config), "text_config"]), min_size=1, max_size=2)):
        config[key] = data.draw(nonsense)
    with contextlib.suppress(QuailError):
        lay_out(config, tensors)


def test_building_the_empty_model_leaves_random_numbers_alone(tmp_path: Path) -> None:
    save(tmp_path, llama_config(vocab_size=95))
    before = torch.get_rng_state()
    open_checkpoint(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
