"""Models whose numbers run out of range are refused, and the layer where that begins is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.nonfinite import first_nonfinite_module
from tests.support.tiny_checkpoints import CONFIGS, build
from tests.support.tiny_language_models import POSTS, llama_config

BREAK: dict[str, Callable[[nn.Module], object]] = {
    "nan": lambda module: module.weight.view(-1)[1:2].fill_(torch.nan),
    "infinite": lambda module: module.weight.fill_(torch.inf),
}


def broken_llama(tokenizer: Any, module: str, how: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    with torch.no_grad():
        BREAK[how](model.get_submodule(module))
    return model


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("module", ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj", "lm_head"])
def test_the_first_layer_of_a_broken_model_is_named(tokenizer: Any, module: str, how: str) -> None:
    model = TransformersModel(broken_llama(tokenizer, module, how), tokenizer)
    message = f"NaN or infinite, first the output of {module} .float32."
    with pytest.raises(BadInputError, match=message):
        dict(model.log_probabilities(POSTS))
    with pytest.raises(BadInputError, match=message):
        dict(model.continuations(POSTS, max_new_tokens=4))


def test_a_model_that_breaks_only_on_a_token_that_it_says_is_refused(tokenizer: Any) -> None:
    """The prompts are read without a NaN; the token that the model says first is what it breaks on."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    prompts = [POSTS[0], POSTS[1][:20]]
    said = {model(torch.tensor([tokenizer(each)["input_ids"]])).logits[0, -1].argmax().item() for each in prompts}
    unseen = said - {token for each in prompts for token in tokenizer(each)["input_ids"]}
    assert unseen, "the test needs such a token"
    with torch.no_grad():
        model.model.embed_tokens.weight[list(unseen)] = torch.nan
    with pytest.raises(BadInputError, match=r"first the output of model\.embed_tokens"):
        dict(TransformersModel(model, tokenizer).continuations(prompts, max_new_tokens=4))


def test_a_model_that_overflows_in_half_precision_is_told_to_use_a_wider_type(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e6)
        model.model.layers[1].mlp.down_proj.weight.mul_(1e2)
    wide = dict(TransformersModel(model, tokenizer).log_probabilities(POSTS[:2]))
    assert len(wide) == 2
    half: PreTrainedModel = model.to(torch.float16)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=r"layers.1.mlp.\w+ .float16.") as refused:
        dict(TransformersModel(half, tokenizer).log_probabilities(POSTS[:2]))
    assert "--dtype" in refused.value.mend


@pytest.mark.parametrize("family", CONFIGS)
def test_the_layer_is_found_in_every_family(family: str) -> None:
    """Against hooks that let the whole model run: the first module called whose output holds a NaN."""
    model = build(CONFIGS[family]).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "lm_head" not in name]
    broken = (names or [name for name, _ in model.named_modules() if name.endswith("c_fc")])[-1]
    with torch.no_grad():
        model.get_submodule(broken).weight.fill_(torch.nan)
    ids, called = [5, 6, 7, 8], []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, _given, output, name=name: (
                called.append(name) if isinstance(output, torch.Tensor) and output.isnan().any() else None
            )
        )
    with torch.no_grad():
        model(torch.tensor([ids]))
    assert first_nonfinite_module(model, ids) == called[0] == broken


def test_a_sound_model_has_no_such_layer_but_its_head(tokenizer: Any) -> None:
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    assert first_nonfinite_module(model, [1, 2, 3]) == "lm_head", "all before it is finite"
