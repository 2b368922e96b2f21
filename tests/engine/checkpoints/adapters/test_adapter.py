"""LoRA adapters, bit for bit against PEFT's merge_and_unload on the whole model."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig

from quail_audit.core.errors import BadInputError, QuailError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.pair import open_pair
from tests.support.tiny_checkpoints import CONFIGS, gpt2_config, llama_config, save

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "all linear": {"target_modules": "all-linear", "lora_alpha": 7},
    "regex": {"target_modules": r".*\.1\.mlp\.(up|gate)_proj"},
    "one block": {"target_modules": ["v_proj"], "layers_to_transform": [1]},
    "excluding": {"target_modules": ["v_proj", "o_proj"], "exclude_modules": r".*\.0\..*"},
    "rank and alpha by pattern": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
        "alpha_pattern": {"v_proj": 3, "layers.0.self_attn.q_proj": 11},
    },
    "rank-stabilized": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "r": 5},
    "DoRA": {"target_modules": ["q_proj", "o_proj", "down_proj"], "use_dora": True},
    "DoRA, rank-stabilized, by pattern": {
        "target_modules": ["q_proj", "down_proj"],
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 3},
    },
    "with biases": {"target_modules": ["q_proj", "down_proj"], "bias": "all"},
    "whole modules saved": {"target_modules": ["q_proj"], "modules_to_save": ["down_proj", "lm_head", "embed_tokens"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "new tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
    "OLoRA": {"target_modules": ["q_proj"], "init_lora_weights": "olora"},
    "PiSSA": {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"},
}


def train(base: Path, folder: Path, **kind: Any) -> None:
    """An adapter with random factors, saved by PEFT."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **kind}))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape) * 0.1
            parameter.data += noise.to(parameter.dtype) if "magnitude" not in name else noise.abs().to(parameter.dtype)
    adapted.save_pretrained(folder)


def merged(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    whole = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return {name: parameter.data for name, parameter in whole.named_parameters()}


def assert_as_peft(base: Path, folder: Path) -> int:
    """Every layer of the pair is bitwise as PEFT merges it; returns how many differ from the base."""
    pair = open_pair(str(base), str(folder))
    expected = merged(base, folder)
    changed = 0
    for layer in pair.layers:
        ours, theirs = pair.read(layer)
        whole = expected[f"{layer.name}.weight"]
        assert theirs.dtype == ours.dtype
        assert theirs.is_contiguous()
        assert torch.equal(theirs, whole.T if layer.transposed else whole), layer.name
        changed += not torch.equal(ours, theirs)
    return changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_lora_is_merged_as_peft_merges_it(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    save(tmp_path / "base", llama_config(), dtype=dtype)
    train(tmp_path / "base", tmp_path / "adapter", **KINDS[kind])
    assert assert_as_peft(tmp_path / "base", tmp_path / "adapter") > 0


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (gpt2_config(), {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        (gpt2_config(), {"target_modules": ["c_attn"]}),
        (gpt2_config(), {"target_modules": ["c_fc"], "use_dora": True, "fan_in_fan_out": True}),
        (llama_config(tie_word_embeddings=True), {"target_modules": ["o_proj"]}),
        (CONFIGS["qwen2"], {"target_modules": ["q_proj"], "lora_bias": True}),
    ],
    ids=["gpt2", "gpt2, orientation not said", "gpt2, DoRA", "tied", "biased"],
)
def test_other_families(tmp_path: Path, config: PreTrainedConfig, kind: dict[str, Any]) -> None:
    save(tmp_path / "base", config)
    train(tmp_path / "base", tmp_path / "adapter", **kind)
    assert assert_as_peft(tmp_path / "base", tmp_path / "adapter") > 0


def test_a_base_in_float16(tmp_path: Path) -> None:
    save(tmp_path / "base", dtype=torch.float16)
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    assert assert_as_peft(tmp_path / "base", tmp_path / "adapter") == 4


def test_an_adapter_in_a_bin_file(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    stored = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(stored), tmp_path / "adapter" / "adapter_model.bin")
    stored.unlink()
    assert assert_as_peft(tmp_path / "base", tmp_path / "adapter") == 4


def test_an_adapter_stored_in_another_type_than_its_base(tmp_path: Path) -> None:
    save(tmp_path / "base", dtype=torch.bfloat16)
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    stored = tmp_path / "adapter" / "adapter_model.safetensors"
    for dtype in (torch.float32, torch.float16):
        save_file({name: tensor.to(dtype) for name, tensor in load_file(stored).items()}, stored)
        assert assert_as_peft(tmp_path / "base", tmp_path / "adapter") == 4


def test_untouched_layers_are_the_bases_own_and_facts_are_the_adapters(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    pair = open_pair(str(tmp_path / "base"), str(tmp_path / "adapter"))
    for layer in pair.layers:
        ours, theirs = pair.read(layer)
        assert torch.equal(ours, theirs) == (layer.role not in ("q_proj", "down_proj"))
    facts = pair.unlearned.facts
    assert (facts.format, facts.architecture, facts.dtypes) == ("LoRA adapter", "LlamaForCausalLM", ("float32",))
    assert facts.parameters == 2 * (4 * (64 + 64) + 4 * (96 + 64))
    assert pair.unlearned.adapter_of is pair.original
    assert pair.unlearned.config == pair.original.config
    assert pair.notes == ()


def test_the_base_files_and_random_numbers_stay_as_they_were(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    pair = open_pair(str(tmp_path / "base"), str(tmp_path / "adapter"))
    state = torch.get_rng_state()
    first = [pair.read(layer)[1] for layer in pair.layers]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(pair.read(layer)[1], tensor) for layer, tensor in zip(pair.layers, first, strict=True))
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before


def test_another_base_than_the_adapter_names_is_noted(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    (tmp_path / "base").rename(tmp_path / "moved")
    pair = open_pair(str(tmp_path / "moved"), str(tmp_path / "adapter"))
    assert len(pair.notes) == 1
    assert str(tmp_path / "base") in pair.notes[0]
    assert str(tmp_path / "moved") in pair.notes[0]


def test_an_adapter_as_the_retrained_reference(tmp_path: Path) -> None:
    save(tmp_path / "base")
    save(tmp_path / "unlearned", seed=1)
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    pair = open_pair(str(tmp_path / "base"), str(tmp_path / "unlearned"), str(tmp_path / "adapter"))
    assert pair.retrain is not None
    assert pair.retrain.adapter_of is pair.original


# Adapters that don't fit


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_adapter_of_another_model_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path / "llama")
    save(tmp_path / "gpt2", gpt2_config())
    save(tmp_path / "wide", llama_config(hidden_size=128, intermediate_size=256))
    train(tmp_path / "llama", tmp_path / "adapter", **KINDS["plain"])
    for other in ("gpt2", "wide"):
        with pytest.raises(BadInputError, match="does not fit the base") as caught:
            open_pair(str(tmp_path / other), str(tmp_path / "adapter"))
        assert "ORIGINAL" in caught.value.mend


def test_a_saved_module_of_another_size_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["whole modules saved"])
    save(tmp_path / "smaller", llama_config(vocab_size=90))
    with pytest.raises(BadInputError, match="does not fit the base"):
        open_pair(str(tmp_path / "smaller"), str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["q_proj.weight"]}, r"cannot merge.*nn\.Parameter"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
        ({"r": "four"}, "LoRA configuration|cannot merge"),
        ({"use_dora": True, "megatron_config": None, "layers_pattern": 7}, "LoRA configuration|cannot merge"),
        ({"r": 5}, "cannot merge"),
        ({"r": 2**31 - 1}, "a rank of 2147483647; no stored factor"),
        ({"rank_pattern": {"q_proj": 2**31 - 1}}, "a rank of 2147483647; no stored factor"),
        ({"use_dora": True}, "cannot merge"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_bad_input(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    edit(tmp_path / "adapter", **changes)
    with pytest.raises(BadInputError, match=said):
        pair = open_pair(str(tmp_path / "base"), str(tmp_path / "adapter"))
        for layer in pair.layers:
            pair.read(layer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    save(folder / "base", llama_config(num_hidden_layers=1))
    train(folder / "base", folder / "adapter", **KINDS["plain"])
    return folder


nonsense = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


@settings(max_examples=80)
@given(data=st.data())
def test_any_configuration_is_merged_or_bad_input(trained: Path, data: st.DataObject) -> None:
    path = trained / "adapter" / "adapter_config.json"
    right = path.read_text()
    config = json.loads(right)
    try:
        for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
            config[key] = data.draw(nonsense)
        path.write_text(json.dumps(config))
        with contextlib.suppress(QuailError):
            pair = open_pair(str(trained / "base"), str(trained / "adapter"))
            pair.read(pair.layers[0])
    finally:
        path.write_text(right)


def test_a_newer_configuration_is_read_with_what_is_known_of_it(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    edit(tmp_path / "adapter", a_key_of_the_future=1)
    assert assert_as_peft(tmp_path / "base", tmp_path / "adapter") == 4


def test_an_adapter_that_is_no_lora_is_bad_input(tmp_path: Path) -> None:
    model = save(tmp_path / "base")
    get_peft_model(
        model, IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    ).save_pretrained(tmp_path / "adapter")
    with pytest.raises(BadInputError, match="'IA3'"):
        open_pair(str(tmp_path / "base"), str(tmp_path / "adapter"))


def test_an_adapter_alone_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    with pytest.raises(BadInputError, match="no whole model"):
        open_checkpoint(str(tmp_path / "adapter"))
    with pytest.raises(BadInputError, match="no whole model"):
        open_pair(str(tmp_path / "adapter"), str(tmp_path / "adapter"))


def test_an_adapter_without_weights_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", **KINDS["plain"])
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInputError, match="adapter_model"):
        open_pair(str(tmp_path / "base"), str(tmp_path / "adapter"))


def test_a_folder_that_is_both_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path / "base")
    train(tmp_path / "base", tmp_path / "base", **KINDS["plain"])
    with pytest.raises(BadInputError, match="both"):
        open_checkpoint(str(tmp_path / "base"))
