"""Weights as transformers loads them: dtypes and wrappers' names, against transformers' own load of the plain save."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import Checkpoint, open_checkpoint
from quail_audit.engine.checkpoints.config_file import attention_names, read_config, without_foreign_attention
from quail_audit.engine.forgetting.models.load import _load_base
from tests.support.tiny_checkpoints import CONFIGS, llama_config, save

IDS = torch.arange(20).unsqueeze(0)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def check_loads_as_transformers_does(found: Checkpoint, plain: Path) -> None:
    """The arm, and every tensor that layers are compared by, are those of transformers' own load."""
    real = AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
    arm, dtype = _load_base(found)
    assert dtype == arm.dtype == real.dtype == found.dtype
    assert torch.equal(arm(IDS).logits, real(IDS).logits)
    parameters = dict(real.named_parameters())
    for parameter, stored in found.layout.tensor_of.items():
        read = found.read(stored)
        assert read.dtype == parameters[parameter].dtype == found.info(stored).dtype
        assert torch.equal(read, parameters[parameter])


@pytest.mark.parametrize(
    ("stored", "named", "note"),
    [
        (torch.float32, "bfloat16", "stored in float32, loaded and compared in bfloat16, as config.json says"),
        (torch.float32, "float16", "stored in float32, loaded and compared in float16, as config.json says"),
        (torch.bfloat16, "float32", "stored in bfloat16, loaded and compared in float32, as config.json says"),
        (torch.float64, "float32", "stored in float64, loaded and compared in float32, as config.json says"),
        (torch.bfloat16, "bfloat16", None),
        (torch.bfloat16, None, None),
    ],
    ids=str,
)
def test_weights_are_cast_as_config_json_says(
    tmp_path: Path, stored: torch.dtype, named: str | None, note: str | None
) -> None:
    save(tmp_path)
    rewrite(tmp_path, lambda tensors: {name: tensor.to(stored) for name, tensor in tensors.items()})
    edit_config(tmp_path, dtype=named)
    found = open_checkpoint(str(tmp_path))
    assert found.notes == ((f"{tmp_path}: {note}",) if note else ())
    check_loads_as_transformers_does(found, tmp_path)
    assert found.facts.dtypes == (str(found.dtype).removeprefix("torch."),)


def test_the_first_weight_tells_the_dtype_if_config_json_does_not(tmp_path: Path) -> None:
    save(tmp_path)
    edit_config(tmp_path, dtype=None)
    rewrite(tmp_path, lambda tensors: {**tensors, "lm_head.weight": tensors["lm_head.weight"].half()})  # the first
    found = open_checkpoint(str(tmp_path))
    assert "20 of 21 tensors are stored in float32, loaded and compared in float16, as its first" in found.notes[0]
    check_loads_as_transformers_does(found, tmp_path)


def test_a_dtype_that_no_model_is_loaded_in_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path)
    edit_config(tmp_path, dtype="int8")
    with pytest.raises(BadInputError, match="names the dtype 'int8', in which no model can be loaded"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("rename", "wrapper"),
    [
        (lambda name: f"_orig_mod.{name}", "_orig_mod"),
        (lambda name: f"module.{name}", "module"),
        (lambda name: f"base_model.model.{name}", "base_model.model"),
        (lambda name: f"module._orig_mod.{name}", "_orig_mod., module"),
        (lambda name: re.sub(r"(layers\.\d)", r"\1._orig_mod", name), "_orig_mod"),
        (lambda name: name.replace("mlp.", "_fsdp_wrapped_module.mlp._checkpoint_wrapped_module."),
         "_fsdp_wrapped_module., _checkpoint_wrapped_module"),
        (lambda name: f"pretrained_model.{name}", "pretrained_model"),
        (lambda name: f"student.net.{name}", "student.net"),
        (lambda name: f"model.{name}", None),  # which transformers finds
    ],
)  # fmt: skip
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, rename: Callable[[str], str], wrapper: str | None) -> None:
    save(tmp_path / "plain")
    save(tmp_path / "wrapped")
    rewrite(tmp_path / "wrapped", lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    found = open_checkpoint(str(tmp_path / "wrapped"))
    if wrapper is not None:
        (note,) = found.notes
        assert f"wrapper; {wrapper}. was taken off" in note
        assert set(found.names) == set(load_file(tmp_path / "plain/model.safetensors"))
    check_loads_as_transformers_does(found, tmp_path / "plain")


def test_prefixes_in_files_of_torch_save(tmp_path: Path) -> None:
    model = save(tmp_path / "plain")
    (tmp_path / "bin").mkdir()
    model.config.save_pretrained(tmp_path / "bin")
    torch.save({f"_orig_mod.{name}": t for name, t in model.state_dict().items()}, tmp_path / "bin/pytorch_model.bin")
    edit_config(tmp_path / "bin", dtype="float32")
    check_loads_as_transformers_does(open_checkpoint(str(tmp_path / "bin")), tmp_path / "plain")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox", "opt"])
def test_names_that_transformers_knows_stay(tmp_path: Path, family: str) -> None:
    save(tmp_path, CONFIGS[family])
    found = open_checkpoint(str(tmp_path))
    assert found.notes == ()
    assert set(found.names) == set(load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("change", "said", "mend"),
    [
        (lambda t: {n: v if v.dim() < 2 else torch.empty(0) for n, v in t.items()}, "ZeRO-3", "zero_to_fp32.py"),
        (lambda t: {f"base_model.model.{n.replace('q_proj', 'q_proj.base_layer')}": v for n, v in t.items()},
         "a PEFT model with its adapter beside the weights", "merge_and_unload"),
        (lambda t: {**t, "x.lora_A.default.weight": torch.ones(2, 2)}, "a PEFT model", "merge_and_unload"),
        (lambda t: {**t, **{f"_orig_mod.{n}": v.clone() for n, v in t.items()}}, "holds two tensors for",
         "Keep one model"),
        (lambda t: {f"{w}.{n}": v.clone() for n, v in t.items() for w in "ab"}, "do not hold", ""),
    ],
    ids=["zero3", "peft", "factors", "both", "two models"],
)  # fmt: skip
def test_what_no_prefix_explains_is_bad_input(
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    said: str,
    mend: str,
) -> None:
    save(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(BadInputError, match=said) as caught:
        open_checkpoint(str(tmp_path))
    assert mend in str(caught.value.mend)


@pytest.mark.parametrize(("name", "is_needed"), [("model.visual.weight", False), ("lm_head.weight", True)])
def test_an_index_may_name_more_than_a_model_needs(tmp_path: Path, name: str, is_needed: bool) -> None:
    save(tmp_path / "plain")
    save(tmp_path / "index")
    rewrite(tmp_path / "index", lambda tensors: {key: value for key, value in tensors.items() if key != name})
    tensors = load_file(tmp_path / "index/model.safetensors")
    (tmp_path / "index/model.safetensors").rename(tmp_path / "index/model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys([*tensors, name], "model-00001-of-00001.safetensors")
    (tmp_path / "index/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    if is_needed:
        with pytest.raises(BadInputError, match=f"names tensors that the files do not hold: {name}"):
            open_checkpoint(str(tmp_path / "index"))
        return
    found = open_checkpoint(str(tmp_path / "index"))
    assert f"its index names tensors that no file holds and no model needs: {name}" in found.notes[0]
    check_loads_as_transformers_does(found, tmp_path / "plain")


# config.json


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": {"__float__": "Infinity"}},
        {"extra": [{"__float__": "-Infinity"}, {"__float__": "x"}, 1.5]},
        {"torch_dtype": "bfloat16"},
        {"dtype": "half"},
        {"dtype": {"": "bfloat16"}},
        {"dtype": "bfloat16", "torch_dtype": "float16"},
        {"dtype": None},
        {"pad_token_id": -1},
        {"eos_token_id": [1, 2]},
        {"architectures": None},
        {"use_flash_attention_2": True, "_flash_attn_2_enabled": True},
        {"_load_in_4bit": True, "load_in_8bit": True, "quantization_config": None},
    ],
    ids=str,
)
def test_config_json_is_read_as_transformers_reads_it(tmp_path: Path, changes: dict[str, object]) -> None:
    save(tmp_path)
    if "torch_dtype" in changes or changes.get("dtype", 1) is None:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "dtype"}))
    edit_config(tmp_path, **changes)
    config = AutoConfig.from_pretrained(tmp_path)
    read = AutoConfig.for_model(**read_config(tmp_path / "config.json"))
    theirs, ours = config.to_dict(), read.to_dict()
    for name in ("_name_or_path", "dtype", "architectures"):
        theirs.pop(name, None), ours.pop(name, None)
    assert ours == theirs
    check_loads_as_transformers_does(open_checkpoint(str(tmp_path)), tmp_path)


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        '{"a": [{"__float__": "Infinity"}, {"__float__": "-Infinity"}], "b": {"__float__": "NaN"}, "c": NaN}'
    )
    found = read_config(path)
    assert found["a"] == [math.inf, -math.inf]
    assert math.isnan(found["b"])
    assert math.isnan(found["c"])
    path.write_text('{"a": ' * 3000 + "1" + "}" * 3000)
    with pytest.raises(BadInputError):
        read_config(path)


@pytest.mark.parametrize("word", ["torch.bfloat16", "bf16", " bfloat16"])
def test_dtypes_whose_meaning_is_plain(tmp_path: Path, word: str) -> None:
    save(tmp_path)
    edit_config(tmp_path, dtype=word)
    assert open_checkpoint(str(tmp_path)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": {"": "flash_attention_2"}},
        {"_attn_implementation": "no such"},
    ],
    ids=str,
)
def test_an_attention_of_another_machine_is_replaced(tmp_path: Path, changes: dict[str, object]) -> None:
    save(tmp_path / "plain", llama_config())
    save(tmp_path / "other", llama_config())
    edit_config(tmp_path / "other", **changes)
    found = open_checkpoint(str(tmp_path / "other"))
    assert attention_names(found.config)
    assert attention_names(without_foreign_attention(found.config)) == ()
    check_loads_as_transformers_does(found, tmp_path / "plain")
    assert _load_base(found)[0].config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("quantization", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "an unnamed method"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
    ],
)
def test_a_stale_quantization_config_is_passed_over(tmp_path: Path, quantization: object, named: str) -> None:
    save(tmp_path / "plain")
    save(tmp_path / "stale")
    edit_config(tmp_path / "stale", quantization_config=quantization)
    (tmp_path / "stale/quantize_config.json").write_text('{"bits": 4}')
    found = open_checkpoint(str(tmp_path / "stale"))
    assert f"says that it is quantized, by {named}, but its weights are plain" in found.notes[0]
    check_loads_as_transformers_does(found, tmp_path / "plain")


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("model.layers.0.mlp.up_proj.weight", torch.ones(64, 32, dtype=torch.uint8)),
        ("model.layers.0.mlp.up_proj.weight", torch.ones(96, 64).to(torch.float8_e4m3fn)),
        ("model.layers.0.mlp.up_proj.W_q", torch.ones(4, dtype=torch.uint8)),
        ("model.layers.0.mlp.experts_blocks", torch.ones(4, 4, dtype=torch.uint8)),
    ],
)
def test_packed_weights_of_an_unknown_method_are_refused(tmp_path: Path, name: str, codes: torch.Tensor) -> None:
    save(tmp_path)
    rewrite(tmp_path, lambda tensors: {**tensors, name: codes})
    edit_config(tmp_path, quantization_config={"quant_method": "secret"})
    with pytest.raises(BadInputError, match="is quantized by secret; Quail reads"):
        open_checkpoint(str(tmp_path))
