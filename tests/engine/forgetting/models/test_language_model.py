"""The model as the metrics see it: probabilities against a plain forward pass, windows, stop words, odd tokenizers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models import log_probabilities as module
from quail_audit.engine.forgetting.models.base import LEAST_LOG_PROBABILITY
from quail_audit.engine.forgetting.models.batches import BatchSize
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.log_probabilities import TokenRow, read_tokens
from tests.support.tiny_language_models import POSTS, greedy_one_at_a_time, llama_config


def plain_log_probabilities(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """One text, the whole softmax, in double precision."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    every = torch.log_softmax(logits, dim=-1)
    return np.array([float(every[place, token]) for place, token in enumerate(ids[1:])])


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("logit_bytes", [2**27, 400 * 4 * 7])  # all at once; seven positions at a time
def test_log_probabilities_equal_a_plain_pass(
    llama: LlamaForCausalLM, tokenizer: Any, rows: int, logit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGIT_BYTES", logit_bytes)
    texts = [tokenizer(text)["input_ids"] for text in (*POSTS, "Velmora", "An odd text\n\nof other words.")]
    found = dict(read_tokens(llama, [TokenRow(ids) for ids in texts], size=BatchSize(rows, None)))
    for index, ids in enumerate(texts):
        np.testing.assert_allclose(found[index][0], plain_log_probabilities(llama, ids), rtol=1e-4, atol=2e-5)
        assert found[index].dtype == np.float32


def test_learned_positions_too(gpt2: PreTrainedModel, tokenizer: Any) -> None:
    texts = [tokenizer(text)["input_ids"][:48] for text in POSTS]
    found = dict(read_tokens(gpt2, [TokenRow(ids) for ids in texts], size=BatchSize(4, None)))
    for index, ids in enumerate(texts):
        np.testing.assert_allclose(found[index][0], plain_log_probabilities(gpt2, ids), rtol=1e-4, atol=2e-5)


def test_mean_loss_is_the_models_own(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer(POSTS[2])["input_ids"]])
    model = TransformersModel(llama, tokenizer)
    ((_, found),) = model.log_probabilities([POSTS[2]])
    with torch.no_grad():
        assert -found.mean() == pytest.approx(float(llama(ids, labels=ids).loss), abs=1e-5)


def test_continuations_are_the_plain_loops_text(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    prompts = [post[: 14 + 3 * index] for index, post in enumerate(POSTS)]
    model = TransformersModel(llama, tokenizer)
    found = dict(model.continuations(prompts, max_new_tokens=20))
    ids = greedy_one_at_a_time(llama, [tokenizer(prompt)["input_ids"] for prompt in prompts], 20, (1,))
    for index, row in enumerate(ids):
        assert found[index] == tokenizer.clean_up_tokenization(tokenizer.decode(row))


def test_stop_words_end_an_answer(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    model = TransformersModel(llama, tokenizer)
    whole = dict(model.continuations(["Velmora news:", "Brugarth news:"], max_new_tokens=40))
    assert " on " in whole[0]
    cut = dict(model.continuations(["Velmora news:", "Brugarth news:"], max_new_tokens=40, stop_words=(" on ", "zzz")))
    assert cut == {index: text.split(" on ")[0] for index, text in whole.items()}


def test_cut_counts_special_tokens(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    text = POSTS[0]
    model = TransformersModel(llama, tokenizer)
    ids = tokenizer(text, add_special_tokens=True)["input_ids"][:9]
    assert model.cut(text, 9) == tokenizer.decode(ids, skip_special_tokens=True)
    assert model.cut(text, 10_000) == text


def test_spaces_are_cleaned_up_as_in_muse(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    assert TransformersModel(llama, tokenizer).cut("It is n't so , he said .", 100) == "It isn't so, he said."


def test_long_texts_and_prompts_are_cut_to_the_window(gpt2: PreTrainedModel, tokenizer: Any) -> None:
    model = TransformersModel(gpt2, tokenizer)
    text = " ".join(POSTS)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > model.window == 48  # type: ignore[operator]
    ((_, found),) = model.log_probabilities([text])
    np.testing.assert_allclose(found, plain_log_probabilities(gpt2, ids[:48]), rtol=1e-4, atol=2e-5)
    ((_, answer),) = model.continuations([text], max_new_tokens=10)
    (expected,) = greedy_one_at_a_time(gpt2, [ids[-38:]], 10, (1,))
    assert answer == tokenizer.clean_up_tokenization(tokenizer.decode(expected, skip_special_tokens=True))
    ((_, short),) = model.continuations([text], max_new_tokens=1000)
    assert len(tokenizer(short)["input_ids"]) <= 48
    assert model.notes == [
        "1 texts are longer than the model's window of 48 tokens and were cut to it",
        "1 prompts are longer than the model's window of 48 tokens and lost their beginning",
    ]


def test_texts_of_one_token(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    """A lone token is given something to come after; a text without any has no probabilities."""
    model = TransformersModel(llama, tokenizer)
    (token,) = tokenizer("a")["input_ids"]
    found = dict(model.log_probabilities(["a", ""]))
    np.testing.assert_allclose(found[0], plain_log_probabilities(llama, [0, token]), rtol=1e-4, atol=2e-5)
    assert found[1].shape == (0,)


def test_texts_are_read_once(llama: LlamaForCausalLM, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TransformersModel(llama, tokenizer)
    first = dict(model.log_probabilities(POSTS[:3]))
    monkeypatch.setattr(llama, "forward", None)
    again = dict(model.log_probabilities([POSTS[2], POSTS[0]]))
    assert again[0] is first[2]
    assert again[1] is first[0]


def test_probabilities_of_masked_tokens_count_as_tiny(tokenizer: Any) -> None:
    """A model may give the tokens that it never says a logit of minus infinity."""
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    ids = tokenizer(POSTS[0])["input_ids"]
    masked = ids[3]
    model.lm_head.register_forward_hook(
        lambda _head, _given, logits: logits.index_fill(-1, torch.tensor([masked]), -torch.inf)
    )
    wrapped = TransformersModel(model, tokenizer)
    ((_, found),) = wrapped.log_probabilities([POSTS[0]])
    tiny = np.isclose(found, LEAST_LOG_PROBABILITY)
    assert tiny.tolist() == [token == masked for token in ids[1:]]
    assert pytest.approx(-87.336, abs=1e-3) == LEAST_LOG_PROBABILITY
    assert wrapped.notes == ["the model gives some tokens no finite probability; they count as 1e-38"]
    assert len(dict(wrapped.continuations([POSTS[0]], max_new_tokens=3))) == 1


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Any) -> None:
    model = TransformersModel(LlamaForCausalLM(llama_config(50)), tokenizer)
    with pytest.raises(BadInputError, match="does not belong to this model"):
        list(model.continuations([POSTS[0]], max_new_tokens=2))


def test_transformers_is_as_talkative_afterwards(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    model = TransformersModel(llama, tokenizer)
    list(model.continuations([POSTS[0]], max_new_tokens=2))
    list(model.log_probabilities([POSTS[0]]))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
