"""The rules that stand in for functions that transformers 4.47 lacks, against those functions where there are any."""

from pathlib import Path

import pytest
import torch

from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.model import transformers_rules as rules
from quail_audit.engine.checkpoints.pair import open_pair
from tests.support.tiny_checkpoints import CONFIGS, build, llama_config, save

SKIPS = [None, (), ("mlp",), ("model.layers.0",), ("q_proj", "lm_head"), ("model.layers.*.mlp",)]
NAMES = ["llama", "llama, tied", "gpt2", "qwen2", "opt"]  # whose modules are the same under both


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    if not rules.is_version_5():
        pytest.skip("there is no newer function to compare with")
    monkeypatch.setattr(rules, "is_version_5", lambda: False)


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_modules_are_left_under_both(
    name: str, skip: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not rules.is_version_5():
        pytest.skip("there is no newer function to compare with")
    model = build(CONFIGS[name])
    modules = [name for name, _ in model.named_modules() if name]

    def converted() -> list[str]:
        left = rules.modules_left(model, skip)
        return [module for module in modules if rules.is_converted(module, left)]

    new = converted()
    tied = rules.tied_weights(model)
    monkeypatch.setattr(rules, "is_version_5", lambda: False)
    assert converted() == new
    assert {frozenset(pair) for pair in rules.tied_weights(model).items()} == {frozenset(pair) for pair in tied.items()}


@pytest.mark.parametrize("name", NAMES)
def test_stored_names_find_their_parameters(tmp_path: Path, name: str, old: None) -> None:
    model = save(tmp_path / "whole", CONFIGS[name])
    model.base_model.save_pretrained(tmp_path / "bare")
    parameters = {parameter for parameter, _ in model.named_parameters()}
    rename = rules.parameter_renaming(model)
    for folder in ("whole", "bare"):
        names = open_checkpoint(str(tmp_path / folder)).names
        assert {rename(stored)[0] for stored in names} <= parameters
    assert rename("no.such.weight") == ("no.such.weight", "")


def test_norms_of_old_checkpoints_are_renamed(old: None) -> None:
    model = build(CONFIGS["gpt2"])
    assert rules.parameter_renaming(model)("h.0.ln_1.gamma") == ("transformer.h.0.ln_1.weight", "")
    assert rules.parameter_renaming(model)("transformer.h.0.ln_1.beta") == ("transformer.h.0.ln_1.bias", "")


def test_new_words_are_put_in_old_ones(old: None) -> None:
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "partial_rotary_factor": 0.5}
    assert rules.config_for_this_version({"dtype": "float16", "rope_parameters": rope, "vocab_size": 9}) == {
        "torch_dtype": "float16",
        "rope_theta": 5e5,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
        "vocab_size": 9,
    }
    plain = {"text_config": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}}
    assert rules.config_for_this_version(plain) == {"text_config": {"rope_theta": 1e4}}


@pytest.mark.backend
def test_a_new_checkpoint_has_its_layers_and_its_rotation_under_either_version(tmp_path: Path) -> None:
    """What transformers 5 writes, read by whichever version is installed: run under 4.47 by make test-backends."""
    from quail_audit.engine.forgetting.models.load import load_arm
    from tests.support.tiny_language_models import make_tokenizer

    theta = 1e6
    model = save(tmp_path, llama_config(rope_theta=theta)).eval()
    config = (tmp_path / "config.json").read_text()
    spelled = config.replace(f'"rope_theta": {theta}', f'"rope_parameters": {{"rope_theta": {theta}}}')
    (tmp_path / "config.json").write_text(spelled if '"rope_parameters"' not in config else config)
    make_tokenizer().save_pretrained(tmp_path)
    pair = open_pair(str(tmp_path), str(tmp_path))
    layers = pair.layers
    roles = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    roles += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert [layer.name for layer in layers] == [f"model.layers.{block}.{role}" for block in (0, 1) for role in roles]
    arm = load_arm(pair.original, None, layers=layers, device="cpu", dtype="float32")
    ids = torch.arange(2, 40).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(arm.model(ids).logits, model(ids).logits, atol=1e-5)
