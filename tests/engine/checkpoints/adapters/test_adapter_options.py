"""Every option of PEFT's LoraConfig: merged bit for bit as PEFT merges the whole model, or refused by name."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftType
from safetensors.torch import load_file, save_file

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.adapters.adapter_config import MERGED_FIELDS, REFUSED_FIELDS, SILENT_FIELDS
from quail_audit.engine.checkpoints.checkpoint import Checkpoint
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.models.load import _load_base, _merge_adapter
from tests.engine.checkpoints.adapters.test_adapter import edit, merged, train
from tests.support.tiny_checkpoints import CONFIGS, save

PLAIN: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}

# option -> (family, configurations that use it)
USES: dict[str, tuple[str, dict[str, Any]]] = {
    "random from the start": ("llama", {**PLAIN, "init_lora_weights": False}),
    "gaussian": ("llama", {**PLAIN, "init_lora_weights": "gaussian", "lora_dropout": 0.1}),
    "eva": ("llama", {**PLAIN, "init_lora_weights": "eva"}),
    "orthogonal": ("llama", {**PLAIN, "init_lora_weights": "orthogonal"}),
    "mica": ("llama", {**PLAIN, "init_lora_weights": "mica"}),
    "KaSA": ("llama", {**PLAIN, "kasa_config": {}}),
    "BD-LoRA": ("llama", {**PLAIN, "use_bdlora": {"target_modules_bd_a": ["q_proj"], "match_strict": False}}),
    "VeLoRA": ("llama", {**PLAIN, "velora_config": {"num_groups": 4}}),
    "Monte Carlo": ("llama", {**PLAIN, "monteclora_config": {}}),
    "parameters by name": ("llama", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "default modules": ("llama", {"target_modules": None}),
    "DoRA on embeddings": ("llama", {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True}),
    "the head": ("llama", {"target_modules": ["lm_head", "v_proj"]}),
    "new tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 7]}}),
    "tied, the embeddings": ("llama, tied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied, new tokens": ("llama, tied", {"target_modules": ["q_proj"], "trainable_token_indices": [3]}),
    "tied, embeddings saved together": (
        "llama, tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "a whole block saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["mlp", "norm"]}),
    "Conv1D, rank-stabilized": ("gpt2", {"target_modules": ["c_attn", "wte"], "use_rslora": True}),
    "Conv1D, PiSSA": ("gpt2", {"target_modules": ["c_fc"], "fan_in_fan_out": True, "init_lora_weights": "pissa"}),
    "biases of targets": ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only", "lora_bias": True}),
    "attention beside experts": ("mixtral", {"target_modules": ["q_proj", "o_proj"]}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for family in {family for family, _ in USES.values()}:
        config = CONFIGS[family].from_dict({**CONFIGS[family].to_dict(), "dtype": "bfloat16"})
        save(folder / family, config, dtype=torch.bfloat16)
    return folder


def merged_arm(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    assert checkpoint.adapter_of is not None
    model, _ = _load_base(checkpoint.adapter_of)
    return {name: value.data for name, value in _merge_adapter(model, checkpoint).named_parameters()}


def assert_whole_model_as_peft(base: Path, folder: Path) -> None:
    """Every stored tensor, and every weight of the arm, is as PEFT merges the whole model."""
    pair = open_pair(str(base), str(folder))
    expected = merged(base, folder)
    changed = 0
    for name in pair.unlearned.names:
        parameter = pair.unlearned.layout.parameter_of(name)
        if parameter in expected and pair.unlearned.info(name).shape == expected[parameter].shape:
            assert pair.unlearned.read(name).equal(expected[parameter]), name
            changed += not pair.original.read(name).equal(expected[parameter])
    assert changed > 0
    for name, value in merged_arm(pair.unlearned).items():
        assert value.equal(expected[name]), name


def test_every_field_of_the_installed_peft_has_its_meaning() -> None:
    known = [*MERGED_FIELDS, *SILENT_FIELDS, *REFUSED_FIELDS]
    assert sorted(known) == sorted({*known})
    assert {field.name for field in dataclasses.fields(LoraConfig)} == {*known}


QUICK = ("gaussian", "tied, the embeddings", "Conv1D, rank-stabilized", "biases of targets", "a whole block saved")


@pytest.mark.parametrize("use", [pytest.param(use, marks=() if use in QUICK else pytest.mark.slow) for use in USES])
def test_options_are_merged_as_peft_merges_them(bases: Path, tmp_path: Path, use: str) -> None:
    family, options = USES[use]
    classes = {"kasa_config": "KasaConfig", "use_bdlora": "BdLoraConfig", "velora_config": "VeloraConfig"}
    classes["monteclora_config"] = "MontecloraConfig"
    options = {
        name: getattr(peft.tuners.lora.config, classes[name])(**value) if name in classes else value
        for name, value in options.items()
    }
    train(bases / family, tmp_path, **options)
    assert_whole_model_as_peft(bases / family, tmp_path)


MIXED = {
    "r": st.sampled_from([2, 4, 6]),
    "lora_alpha": st.integers(1, 20),
    "use_rslora": st.booleans(),
    "use_dora": st.booleans(),
    "init_lora_weights": st.sampled_from([True, False, "gaussian", "olora", "pissa", "orthogonal"]),
    "target_modules": st.sampled_from([["q_proj"], ["v_proj", "up_proj"], "all-linear", r".*\.1\..*_proj"]),
    "exclude_modules": st.sampled_from([None, ["o_proj"], r".*gate_proj"]),
    "rank_pattern": st.sampled_from([{}, {"up_proj": 2}, {r"layers\.1\.self_attn\.q_proj": 8}]),
    "alpha_pattern": st.sampled_from([{}, {"v_proj": 3}]),
    "modules_to_save": st.sampled_from([None, ["lm_head"], ["norm", "embed_tokens"]]),
}


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=st.fixed_dictionaries(MIXED))
def test_any_mixture_of_options_is_merged_as_peft_merges_it(
    bases: Path, tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    train(bases / "llama", folder, **options)
    assert_whole_model_as_peft(bases / "llama", folder)


def plain_adapter(base: Path, folder: Path, **options: Any) -> None:
    trained = base.parent / f"adapter {sorted(options.items())}"
    if not trained.exists():
        train(base, trained, **{**PLAIN, **options})
    shutil.copytree(trained, folder, dirs_exist_ok=True)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "aLoRA": ({"alora_invocation_tokens": [1, 2]}, "uses alora_invocation_tokens"),
    "Arrow": ({"arrow_config": {"top_k": 2}}, "uses arrow_config"),
    "layers repeated": ({"layer_replication": [[0, 2]]}, "uses layer_replication"),
    "Megatron": ({"megatron_config": {"a": 1}}, "uses megatron_config"),
    "QA-LoRA": ({"use_qalora": True}, "uses use_qalora"),
    "drawn factorization": ({"init_lora_weights": "pissa_niter_4"}, "draws at random"),
    "CorDA": ({"init_lora_weights": "corda"}, "the adapter does not say how"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "the adapter does not say how"),
    "initial values of the future": ({"init_lora_weights": "sparkling"}, "the installed PEFT does not know"),
    "a module saved that is not there": ({"modules_to_save": ["lm_head"]}, "its files lack: .*lm_head"),
    "a module that is not targeted": ({"target_modules": ["q_proj"]}, "PEFT would leave them out: .*down_proj"),
    "one block only": ({"layers_to_transform": [0]}, r"PEFT would leave them out: .*layers\.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_stand_for_no_one_set_of_weights_are_refused(bases: Path, tmp_path: Path, case: str) -> None:
    changes, said = REFUSED[case]
    plain_adapter(bases / "llama", tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(BadInputError, match=said) as caught:
        open_pair(str(bases / "llama"), str(tmp_path))
    assert "download" not in caught.value.mend
    assert re.search("merge_and_unload|only its base|Only its base", caught.value.mend)


@pytest.mark.parametrize("kind", sorted({kind.value for kind in PeftType} - {"LORA"}))
def test_every_other_kind_of_adapter_is_refused_with_what_can_be_done(bases: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadInputError, match=f"'{kind}'") as caught:
        open_pair(str(bases / "llama"), str(tmp_path))
    can_merge = "PROMPT" not in kind and kind not in ("P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "XLORA", "POLY")
    assert ("merge_and_unload" in caught.value.mend) == (can_merge and kind != "ADAPTION_PROMPT")


# Files that hold another set of tensors than the configuration targets


def without(folder: Path, text: str) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if text not in name}, path)


@pytest.mark.parametrize("options", [{}, {"init_lora_weights": "gaussian"}], ids=str)
def test_modules_without_factors_stay_as_they_are_and_are_named(
    bases: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    plain_adapter(bases / "llama", tmp_path, **options)
    without(tmp_path, "down_proj")
    assert_whole_model_as_peft(bases / "llama", tmp_path)
    (note,) = open_pair(str(bases / "llama"), str(tmp_path)).notes
    assert "model.layers.0.mlp.down_proj" in note
    assert "model.layers.1.mlp.down_proj" in note


@pytest.mark.parametrize(
    "options",
    [*({"init_lora_weights": start} for start in (False, "orthogonal", "pissa", "olora", "eva")), {"use_dora": True}],
    ids=str,
)
def test_modules_without_factors_that_would_change_are_refused(
    bases: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    plain_adapter(bases / "llama", tmp_path, **options)
    without(tmp_path, "down_proj")
    with pytest.raises(BadInputError, match=r"no factors for modules .* model\.layers\.0\.mlp\.down_proj"):
        open_pair(str(bases / "llama"), str(tmp_path))


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_half_a_pair_of_factors_is_refused(bases: Path, tmp_path: Path, factor: str) -> None:
    plain_adapter(bases / "llama", tmp_path)
    without(tmp_path, f"layers.1.self_attn.q_proj.{factor}")
    with pytest.raises(BadInputError, match=rf"layers\.1\.self_attn\.q_proj lacks .*{factor}"):
        open_pair(str(bases / "llama"), str(tmp_path))


def renamed(folder: Path, old: str, new: str) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({re.sub(old, new, name): value for name, value in load_file(path).items()}, path)


def test_the_name_of_the_adapter_inside_its_tensors_names_is_read(bases: Path, tmp_path: Path) -> None:
    plain_adapter(bases / "llama", tmp_path)
    renamed(tmp_path, r"(lora_[AB])", r"\1.default")
    assert_whole_model_as_peft(bases / "llama", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"(lora_[AB])", r"\1.forget", "PEFT would leave them out"),
        (r"^base_model\.model\.", "", "not named as PEFT names them"),
        (r"^base_model\.model\.", "base_model.model.base_model.model.", "has no module for"),
        (r"layers\.1\.", "layers.7.", r"has no module for .*layers\.7"),
        (r"\.self_attn\.", ".attention.", "has no module for"),
    ],
)
def test_tensors_that_peft_passes_over_are_refused(bases: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    plain_adapter(bases / "llama", tmp_path)
    renamed(tmp_path, old, new)
    with pytest.raises(BadInputError, match=said):
        open_pair(str(bases / "llama"), str(tmp_path))


def test_options_of_a_newer_peft_are_noted(bases: Path, tmp_path: Path) -> None:
    plain_adapter(bases / "llama", tmp_path)
    edit(tmp_path, a_key_of_the_future={"scale": 2}, another=None)
    (note,) = open_pair(str(bases / "llama"), str(tmp_path)).notes
    assert "a_key_of_the_future" in note
    assert "another" not in note


# Experts


def test_experts_as_transformers_4_had_them_are_refused_by_name(bases: Path, tmp_path: Path) -> None:
    places = itertools.product(range(2), range(2), ("w1", "w2", "w3"), "AB")
    names = [
        f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.lora_{factor}.weight"
        for layer, expert, part, factor in places
    ]
    sides = {"w1": (96, 64), "w2": (64, 96), "w3": (96, 64)}
    tensors = {}
    for name in names:
        outputs, inputs = sides[name.split(".")[8]]
        tensors[name] = torch.randn((4, inputs) if "lora_A" in name else (outputs, 4))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["w1", "w2", "w3"], "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"block_sparse_moe\.experts\.0\.w1") as caught:
        open_pair(str(bases / "mixtral"), str(tmp_path))
    assert "merge_and_unload" in caught.value.mend


def test_experts_by_parameter_are_refused_by_name(bases: Path, tmp_path: Path) -> None:
    train(bases / "mixtral", tmp_path, target_modules=[], target_parameters=["experts.gate_up_proj"])
    with pytest.raises(BadInputError, match=r"experts\.gate_up_proj"):
        open_pair(str(bases / "mixtral"), str(tmp_path))


def test_two_loads_of_an_adapter_are_the_same_and_leave_the_callers_random_numbers(bases: Path, tmp_path: Path) -> None:
    plain_adapter(bases / "llama", tmp_path)
    without(tmp_path, "down_proj")
    checkpoint = open_pair(str(bases / "llama"), str(tmp_path)).unlearned
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = merged_arm(checkpoint)
    torch.manual_seed(6)
    second = merged_arm(checkpoint)
    assert all(value.equal(second[name]) for name, value in first.items())
    torch.manual_seed(5)
    open_pair(str(bases / "llama"), str(tmp_path))
    assert torch.get_rng_state().equal(state)


def test_an_adapter_of_a_resized_vocabulary_is_refused_with_how_to_merge_it(bases: Path, tmp_path: Path) -> None:
    train(bases / "llama", tmp_path, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    path = tmp_path / "adapter_model.safetensors"
    grown = {
        name: torch.cat([value, value[:1]]) if ".lora_" not in name else value
        for name, value in load_file(path).items()
    }
    save_file(grown, path)
    with pytest.raises(BadInputError, match=r"does not fit the base: .* is \[97, 64\]") as caught:
        open_pair(str(bases / "llama"), str(tmp_path))
    assert "resize_token_embeddings(97)" in caught.value.mend
