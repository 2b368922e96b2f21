"""The rounded forward pass of training is the audit's deployed model: the same codes, the same logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import known_schemes, scheme_named
from quail_audit.schema.events.training import TrainStep
from quail_train.objectives.hinge import hinge
from quail_train.objectives.terms import predictions
from quail_train.training.model import freeze_all_but
from quail_train.training.rounded_forward import RoundedForward, effective_weight, straight_through
from tests.support.tiny_language_models import POSTS
from tests.support.tiny_training import events_of, request_in


def rounding_of(model: Any, folder: Path, scheme: str) -> RoundedForward:
    pair = open_pair(str(folder), str(folder))
    stored = {layer.name: pair.original.info(f"{layer.name}.weight").dtype for layer in pair.layers}
    modules = {layer.name: model.get_submodule(layer.name) for layer in pair.layers}
    return RoundedForward(modules, pair.layers, scheme_named(scheme), stored)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", [scheme.name for scheme in known_schemes()])
def test_logits_are_those_of_the_audit_s_arm(
    scheme: str, dtype: torch.dtype, training_world: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    LlamaForCausalLM.from_pretrained(training_world / "unlearned", dtype=dtype).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(POSTS[0])["input_ids"]])
    rounding = rounding_of(model, tmp_path, scheme)
    pair = open_pair(str(tmp_path), str(tmp_path))
    arm = load_arm(pair.original, scheme_named(scheme), layers=pair.layers, device="cpu", dtype="float32")
    with torch.no_grad():
        plain = model(ids).logits
        with rounding.rounded():
            found = model(ids).logits
        assert torch.equal(found, arm.model(ids).logits)
        assert torch.equal(plain, model(ids).logits), "switched off again"
    assert (found - plain).abs().max() > 1e-3


def test_weights_stored_the_other_way_round(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=4, n_positions=32, vocab_size=400)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    rounding = rounding_of(model, tmp_path, "nf4")
    pair = open_pair(str(tmp_path), str(tmp_path))
    arm = load_arm(pair.original, scheme_named("nf4"), layers=pair.layers, device="cpu", dtype="float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), rounding.rounded():
        torch.testing.assert_close(model(ids).logits, arm.model(ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheme", [scheme.name for scheme in known_schemes()])
def test_codes_in_training_are_the_audit_s_and_gradients_pass_straight_through(scheme: str) -> None:
    weight = (torch.randn(16, 128, generator=torch.Generator().manual_seed(1)) * 0.02).requires_grad_(True)
    found = straight_through(weight, scheme_named(scheme), torch.bfloat16, transposed=False)
    saved = weight.detach().bfloat16()  # as the checkpoint will have it
    audited = scheme_named(scheme).quantize(saved)
    assert torch.equal(found, scheme_named(scheme).dequantize(audited).float())
    gradient = torch.randn(16, 128)
    (passed,) = torch.autograd.grad(found, weight, gradient)
    assert torch.equal(passed, gradient)


def test_lora_is_rounded_with_its_product_added(training_world: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(training_world / "unlearned").eval()
    pair = open_pair(str(training_world / "original"), str(training_world / "unlearned"))
    modules = freeze_all_but(model, pair.layers[:3], lora=True)
    torch.manual_seed(0)
    for module in modules.values():
        lora: Any = module
        torch.nn.init.normal_(lora.lora_B["default"].weight, std=0.1)
    everything = {layer.name: model.get_submodule(layer.name) for layer in pair.layers}
    stored = dict.fromkeys(everything, torch.float32)
    rounding = RoundedForward(everything, pair.layers, scheme_named("nf4"), stored)
    merged = LlamaForCausalLM.from_pretrained(training_world / "unlearned").eval()
    scheme = scheme_named("nf4")
    with torch.no_grad():
        for layer in pair.layers:
            weight = effective_weight(model.get_submodule(layer.name))
            merged.get_submodule(layer.name).weight.copy_(scheme.dequantize(scheme.quantize(weight)))  # type: ignore[union-attr, operator]
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        with rounding.rounded():
            torch.testing.assert_close(model(ids).logits, merged(ids).logits, rtol=0, atol=1e-5)


def test_the_hinge_on_rounded_weights_moves_what_deployment_sees(training_world: Path, tmp_path: Path) -> None:
    """Its value in the first step is that of the audit's own nf4 arm against the original."""
    request = request_in(
        training_world, tmp_path / "out", objective="hinge_gdr", hinge="centred", hinge_precision="quantized",
        margin_logits=2.0, max_steps=1,
    )  # fmt: skip
    (step,) = [event for event in events_of(request) if isinstance(event, TrainStep)]
    pair = open_pair(request.original, request.unlearned)
    rounded = load_arm(pair.unlearned, scheme_named("nf4"), layers=pair.layers, device="cpu", dtype="float32")
    original = load_arm(pair.original, None, layers=pair.layers, device="cpu", dtype="float32")
    values = []
    with torch.no_grad():
        for post in POSTS[:3]:
            ids = torch.tensor([[*rounded.tokenizer(post)["input_ids"], 1][:96]])
            sides = [predictions(arm.model(ids).logits, ids) for arm in (rounded, original)]
            values.append(hinge("centred", sides[0], sides[1], 2.0).values)
    assert step.terms["hinge"] == pytest.approx(float(torch.cat(values).mean()), rel=1e-4)


@pytest.mark.parametrize("argument", ["activation_checkpointing", "gradient_checkpointing"])
def test_activations_that_are_computed_again_are_of_the_same_weights(
    argument: str, training_world: Path, tmp_path: Path
) -> None:
    """The backward pass comes when the model is back at its weights as they are."""
    norms = {}
    for name, extra in (("kept", {}), ("again", {argument: "True"})):
        request = request_in(
            training_world, tmp_path / name, objective="repair", hinge="centred", hinge_precision="quantized",
            margin_logits=3.0, max_steps=3, trainer=extra,
        )  # fmt: skip
        steps = [event for event in events_of(request) if isinstance(event, TrainStep)]
        norms[name] = [event.gradient_norm for event in steps]
    assert norms["again"] == pytest.approx(norms["kept"], rel=1e-4)
