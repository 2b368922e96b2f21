"""Opening checkpoints and pairing them: what is read, what is counted, and what does not fit together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.pair import Layer, open_pair
from tests.support.tiny_checkpoints import CONFIGS, build, gpt2_config, llama_config, save, save_bin

PER_BLOCK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Replace tensors, add them, or leave them out where None is given."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata={"format": "pt"})


def test_layers_are_the_models_weights_in_model_order(tmp_path: Path) -> None:
    original = save(tmp_path / "original", seed=0)
    unlearned = save(tmp_path / "unlearned", seed=1)
    pair = open_pair(str(tmp_path / "original"), str(tmp_path / "unlearned"))
    assert [layer.role for layer in pair.layers] == PER_BLOCK * 2
    assert pair.layers[9] == Layer("model.layers.1.self_attn.v_proj", 1, "v_proj", (32, 64), 32 * 64, False)
    assert pair.left_in_full_precision == ("model.embed_tokens", "lm_head")
    assert pair.notes == ()
    assert pair.retrain is None
    for layer in pair.layers:
        ours, theirs = pair.read(layer)
        assert torch.equal(ours, original.get_submodule(layer.name).weight)
        assert torch.equal(theirs, unlearned.get_submodule(layer.name).weight)


@pytest.mark.parametrize("form", ["one file", "sharded", "bin", "sharded bin"])
def test_every_form_of_a_checkpoint_is_the_same_checkpoint(tmp_path: Path, form: str) -> None:
    model = save(tmp_path / "plain")
    folder = tmp_path / "other"
    if form == "sharded":
        save(folder, max_shard_size="100KB")
        assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    elif form == "one file":
        save(folder)
    else:
        save_bin(folder, model, shards=3 if form == "sharded bin" else 1)
    pair = open_pair(str(tmp_path / "plain"), str(folder))
    for layer in pair.layers:
        ours, theirs = pair.read(layer)
        assert torch.equal(ours, theirs)
    facts = pair.unlearned.facts
    assert facts.format == ("pytorch .bin" if "bin" in form else "safetensors")
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.size_bytes == sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".bin", ".safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_each_side_is_read_in_its_own_type(tmp_path: Path, dtype: torch.dtype) -> None:
    save(tmp_path / "original", dtype=torch.bfloat16)
    save(tmp_path / "unlearned", dtype=dtype)
    pair = open_pair(str(tmp_path / "original"), str(tmp_path / "unlearned"))
    ours, theirs = pair.read(pair.layers[0])
    assert (ours.dtype, theirs.dtype) == (torch.bfloat16, dtype)
    assert pair.unlearned.facts.dtypes == (str(dtype).removeprefix("torch."),)


def test_types_are_those_that_are_loaded(tmp_path: Path) -> None:
    save(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(tmp_path, {name: torch.ones(96, 64, dtype=torch.bfloat16)})
    found = open_checkpoint(str(tmp_path))
    assert (found.info(name).dtype, found.read(name).dtype) == (torch.float32, torch.float32)
    assert found.facts.dtypes == ("float32",)


def test_tied_weights_are_counted_once_however_they_are_stored(tmp_path: Path) -> None:
    """One side stores the head as a copy of the embedding, as torch.save does; the other leaves it out."""
    config = llama_config(tie_word_embeddings=True)
    model = save(tmp_path / "once", config)
    save_bin(tmp_path / "twice", model)
    pair = open_pair(str(tmp_path / "once"), str(tmp_path / "twice"))
    assert "lm_head.weight" in pair.unlearned.names
    assert "lm_head.weight" not in pair.original.names
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert pair.original.facts.parameters == pair.unlearned.facts.parameters == parameters
    assert pair.notes == ()


def test_conv1d_layers_are_given_the_way_they_are_rounded(tmp_path: Path) -> None:
    model = save(tmp_path, gpt2_config())
    pair = open_pair(str(tmp_path), str(tmp_path))
    layer = pair.layers[0]
    assert layer == Layer("transformer.h.0.attn.c_attn", 0, "c_attn", (3 * 64, 64), 3 * 64 * 64, True)
    ours, _ = pair.read(layer)
    assert torch.equal(ours, model.get_submodule(layer.name).weight.T)


def test_a_checkpoint_reads_without_a_pair(tmp_path: Path) -> None:
    model = save(tmp_path, CONFIGS["opt"])
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.adapter_of is None
    assert checkpoint.config["model_type"] == "opt"
    assert checkpoint.folder == tmp_path
    state = model.state_dict()
    for name in checkpoint.names:
        assert checkpoint.info(name) == (tuple(state[name].shape), state[name].dtype)
        assert torch.equal(checkpoint.read(name), state[name])
    with pytest.raises(KeyError):
        checkpoint.read("no such tensor")


def test_facts(tmp_path: Path) -> None:
    model = save(tmp_path)
    facts = open_checkpoint(str(tmp_path)).facts
    assert facts.source == str(tmp_path)
    assert facts.revision is None
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.size_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_a_retrained_reference_must_fit_too(tmp_path: Path) -> None:
    for name, config in {"original": llama_config(), "retrain": llama_config(num_hidden_layers=3)}.items():
        save(tmp_path / name, config)
    with pytest.raises(BadInputError, match="does not fit") as caught:
        open_pair(str(tmp_path / "original"), str(tmp_path / "original"), str(tmp_path / "retrain"))
    assert caught.value.where == str(tmp_path / "retrain")


def test_one_side_may_lack_its_config(tmp_path: Path) -> None:
    for name in ("with", "without"):
        save(tmp_path / name, gpt2_config())
    (tmp_path / "without" / "config.json").unlink()
    for first, second in (("with", "without"), ("without", "with")):
        pair = open_pair(str(tmp_path / first), str(tmp_path / second))
        assert all(layer.transposed for layer in pair.layers)
        assert any("config.json" in note and "without" in note for note in pair.notes)


def test_old_buffers_are_passed_over_and_strangers_noted(tmp_path: Path) -> None:
    save(tmp_path)
    edit_weights(tmp_path, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert open_checkpoint(str(tmp_path)).notes == ()
    edit_weights(tmp_path, {"vision.weight": torch.ones(8)})
    assert "vision.weight" in " ".join(open_checkpoint(str(tmp_path)).notes)


# What does not fit together


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (llama_config(num_hidden_layers=3), r"it has .*model\.layers\.2\..* \(9 in all\) besides"),
        (llama_config(num_hidden_layers=1), r"it lacks model\.layers\.1\..* \(9 in all\)"),
        (llama_config(intermediate_size=128), r"of other shapes .*\[128, 64\] instead of \[96, 64\].*\(6 in all\)"),
        (gpt2_config(), "architectures differ: model_type is gpt2 here, and llama in"),
        (CONFIGS["qwen2"], "architectures differ"),
    ],
    ids=["deeper", "shallower", "wider", "gpt2", "qwen2"],
)
def test_models_that_differ_are_bad_input(tmp_path: Path, config: Any, said: str) -> None:
    save(tmp_path / "original")
    save(tmp_path / "unlearned", config)
    with pytest.raises(BadInputError, match=said) as caught:
        open_pair(str(tmp_path / "original"), str(tmp_path / "unlearned"))
    assert caught.value.where == str(tmp_path / "unlearned")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.float8_e4m3fn, torch.bool])
def test_layers_of_other_types_are_bad_input(tmp_path: Path, dtype: torch.dtype) -> None:
    save(tmp_path / "original")
    save(tmp_path / "unlearned")
    name = "model.layers.1.self_attn.o_proj.weight"
    edit_weights(tmp_path / "unlearned", {name: torch.ones(64, 64).to(dtype)})
    with pytest.raises(BadInputError, match=rf"o_proj\.weight \({str(dtype).removeprefix('torch.')}\)"):
        open_pair(str(tmp_path / "original"), str(tmp_path / "unlearned"))


def test_nothing_left_to_round_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(BadInputError, match="no layer"):
        open_pair(str(tmp_path), str(tmp_path), skip_modules=("model", "lm_head"))


def test_missing_layers_are_bad_input(tmp_path: Path) -> None:
    save(tmp_path)
    edit_weights(tmp_path, {"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(BadInputError, match=r"do not hold: model\.layers\.1\.mlp\.up_proj"):
        open_checkpoint(str(tmp_path))


# What is no checkpoint


def test_full_weights_that_are_said_to_be_packed_are_read_as_full_weights(tmp_path: Path) -> None:
    save(tmp_path)
    plain = open_checkpoint(str(tmp_path))
    edit_config(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    found = open_checkpoint(str(tmp_path))
    assert "says that it is quantized, by gptq, but its weights are plain" in found.notes[0]
    assert (found.config, found.packed, found.names) == (plain.config, {}, plain.names)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "~/nowhere-at-all", "nowhere", "a/b/c", "../x/y"])
def test_a_missing_folder_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(BadInputError, match="no such folder"):
        open_checkpoint(source)


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "~no-such-user-here/model"])
def test_a_path_that_is_none_is_bad_input(source: str) -> None:
    with pytest.raises(BadInputError):
        open_checkpoint(source)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(BadInputError, match="is a file") as caught:
        open_checkpoint(str(tmp_path / "model.safetensors"))
    assert str(tmp_path) in caught.value.mend


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="empty"):
        open_checkpoint(str(tmp_path))


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    build(llama_config()).config.save_pretrained(tmp_path)
    (tmp_path / "model-q4.zip").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"expected model\.safetensors .*found .*model-q4\.zip"):
        open_checkpoint(str(tmp_path))


def test_weights_without_tensors_are_bad_input(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match="no tensors"):
        open_checkpoint(str(tmp_path))


def test_a_folder_that_may_not_be_read_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(BadInputError, match="Permission denied"):
        open_checkpoint(str(tmp_path))


def test_a_config_that_is_no_json_is_bad_input(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(BadInputError, match="not JSON") as caught:
        open_checkpoint(str(tmp_path))
    assert caught.value.where == str(tmp_path / "config.json")
