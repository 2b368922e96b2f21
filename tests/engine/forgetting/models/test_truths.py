"""Truths after their prompts: against a plain loop, and where a truth begins and ends in the tokens of tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from quail_audit.engine.forgetting.metrics.interface import TokenScores, Truth
from quail_audit.engine.forgetting.models import log_probabilities
from quail_audit.engine.forgetting.models.base import LEAST_LOG_PROBABILITY
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.nonfinite import NonfiniteLogitsError
from quail_audit.runs.journal import open_journal
from tests.support.tiny_language_models import POSTS, llama_config
from tests.support.tiny_tokenizers import FAMILIES, byte_level

EXAMPLES = "".join(f"Question: Who is {post[:4]}?\nAnswer: {post[:9]}\n\n" for post in POSTS)
TRUTHS = (
    *(Truth(post[:20], post[20:]) for post in POSTS),
    *(
        Truth(f"{EXAMPLES}Question: What is {n}?\nAnswer: ", answer, "\n\n")
        for n, answer in enumerate(("Tavi", "4", "no. "))
    ),
    Truth("Who wept?", " Minka Brandovar left."),
)


def plain_scores(
    model: Any, tokenizer: Any, truth: Truth, most_tokens: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One truth by itself: log-probabilities in double precision, and whether each token is the argmax."""
    prompt, whole = (tokenizer(text)["input_ids"] for text in (truth.prompt, truth.prompt + truth.text))
    first = next((n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0, first - 1 : -1].double()
    targets = torch.tensor(whole[first:])
    nats = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    return nats[:most_tokens].numpy(), (logits.argmax(-1) == targets)[:most_tokens].numpy()


def scored(model: TransformersModel, *truths: Truth, most_tokens: int | None = None) -> list[TokenScores]:
    return [found for _, found in sorted(model.truth_scores(truths, most_tokens=most_tokens), key=lambda one: one[0])]


@pytest.fixture(scope="module")
def qwen3(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3Config(num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    return Qwen3ForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("rows", "logit_bytes"), [(None, 2**27), (3, 400 * 4 * 7)]
)  # all at once; 7 positions at a time
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_truths_equal_a_plain_loop(
    request: pytest.FixtureRequest,
    tokenizer: Any,
    name: str,
    rows: int | None,
    logit_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_probabilities, "LOGIT_BYTES", logit_bytes)
    model = request.getfixturevalue(name)
    truths = [
        truth for truth in TRUTHS if name != "gpt2" or len(tokenizer(truth.prompt + truth.text)["input_ids"]) <= 48
    ]
    assert len(truths) >= 1
    for found, truth in zip(
        scored(TransformersModel(model, tokenizer, batch_size=rows), *truths, most_tokens=16), truths, strict=True
    ):
        nats, is_likeliest = plain_scores(model, tokenizer, truth, 16)
        np.testing.assert_allclose(np.exp(found.log_probabilities), np.exp(nats), atol=1e-5, rtol=0)
        np.testing.assert_allclose(found.log_probabilities, nats, atol=1e-5, rtol=1e-5)
        assert found.is_likeliest.tolist() == is_likeliest.tolist()


def test_a_learned_text_is_the_argmax(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    (found,) = scored(TransformersModel(llama, tokenizer), Truth(POSTS[0][:30], POSTS[0][30:]))
    assert found.is_likeliest.all()
    assert found.text == POSTS[0][30:]


def test_the_spread_is_the_distributions_own(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    ((_, found),) = TransformersModel(llama, tokenizer).token_scores(POSTS[:1], spread=True)
    with torch.no_grad():
        nats = llama(torch.tensor([tokenizer(POSTS[0])["input_ids"]])).logits[0, :-1].double().log_softmax(-1)
    drawn = [torch.distributions.Categorical(logits=row) for row in nats]
    means = [float(-each.entropy()) for each in drawn]
    variances = [float((each.probs * (row + each.entropy()) ** 2).sum()) for each, row in zip(drawn, nats, strict=True)]
    np.testing.assert_allclose(found.means, means, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.deviations, np.sqrt(variances), atol=1e-5, rtol=1e-4)


# -- where a truth begins


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("prompt", "truth"),
    [
        ("The mayor of Velmora", " wept."),
        ("The mayor of ", "Velmora wept."),  # a prompt that ends in a space
        ("The may", "or of Velmora"),  # cut within a word
        ("Answer: ", "Tavi"),  # one word
        ("Velmora news:", " 17"),
    ],
)
def test_tokens_of_the_truth_and_no_others(family: str, prompt: str, truth: str) -> None:
    """The scored tokens hold the truth, and of the prompt no more than what is joined with it."""
    tokenizer = FAMILIES[family]()
    model = TransformersModel(LlamaForCausalLM(llama_config(len(tokenizer))), tokenizer)
    row = model._truth_row(Truth(prompt, truth), None)
    whole = tokenizer(prompt + truth, add_special_tokens=False)["input_ids"]
    of_truth = row.ids[row.first :]
    assert whole[len(whole) - len(of_truth) :] == of_truth
    assert row.ids[: row.first] == model.prompts.encode(prompt).ids[: row.first]
    said = tokenizer.decode(of_truth).replace(" ", "").replace("##", "")
    assert said.endswith(truth.replace(" ", "").lower() if truth.lower() in said else truth.replace(" ", ""))
    one_less = tokenizer.decode(of_truth[1:]).replace("##", "")
    assert len(one_less) < len(truth), "more tokens than the truth needs were scored"


def test_an_answer_that_joins_the_prompts_last_token() -> None:
    """Byte-level BPE joins the prompt's last blank to the word behind it, and the answer's first token is that one."""
    tokenizer = byte_level()
    model = TransformersModel(LlamaForCausalLM(llama_config(len(tokenizer))), tokenizer)
    row = model._truth_row(Truth("The mayor ", "lost"), None)
    assert tokenizer.convert_ids_to_tokens(tokenizer("The mayor ")["input_ids"])[-1] == "Ġ"
    assert tokenizer.convert_ids_to_tokens(row.ids[row.first :]) == ["Ġlost"]
    assert tokenizer.decode(row.ids[: row.first]) == "The mayor"


def test_a_last_token_that_joins_what_comes_after() -> None:
    """Where a tokenizer joins "." with a blank line, the answer's last token in such a prompt is that one."""
    tokenizer = byte_level()
    tokenizer.add_tokens([".\n\n"])
    model = TransformersModel(LlamaForCausalLM(llama_config(len(tokenizer))), tokenizer)
    rows = [model._truth_row(Truth("Answer: ", "He wept.", after), None) for after in ("", "\n\n", " And")]
    words = [tokenizer.convert_ids_to_tokens(row.ids[row.first :]) for row in rows]
    assert words[0][-1] == "."
    assert words[1] == [*words[0][:-1], ".\n\n"]
    assert words[2] == words[0]
    assert {row.text for row in rows} == {"He wept."}


@pytest.mark.parametrize("after", ["", "</s>"])
def test_tokens_that_end_a_text_are_left_out(after: str) -> None:
    """Neither one that the tokenizer puts behind a text, nor one that the truth brings, is part of the truth."""
    plain, ended = byte_level("<s>"), byte_level("<s>", after)
    model = LlamaForCausalLM(llama_config(len(plain), eos_token_id=1)).eval()
    (expected,) = scored(TransformersModel(model, plain), Truth("The mayor", " wept"))
    for text in (" wept", " wept</s>"):
        (found,) = scored(TransformersModel(model, ended), Truth("The mayor", text))
        assert found.log_probabilities.tolist() == expected.log_probabilities.tolist()


def test_a_truth_of_no_token_scores_nothing_and_is_noted(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    model = TransformersModel(llama, tokenizer)
    found = scored(model, Truth("Who wept?", "</s>"), Truth("Who wept?", " Minka"))
    assert found[0].tokens == 0
    assert found[1].tokens > 0
    (note,) = model.notes
    assert note == (
        "1 of 2 truths have no token of their own, so there is nothing to score: they count as 0 in every arm, such as "
        "that of the prompt 'Who wept?'"
    )


def test_a_truth_that_joins_the_only_token_of_its_prompt() -> None:
    """Nothing is left before it, so a start is put there."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["QuailBird"])
    model = LlamaForCausalLM(llama_config(len(tokenizer), bos_token_id=0)).eval()
    wrapped = TransformersModel(model, tokenizer)
    row = wrapped._truth_row(Truth("Quail", "Bird"), None)
    assert (row.ids[0], row.first, len(row.ids)) == (0, 1, 2)
    (found,) = scored(wrapped, Truth("Quail", "Bird"))
    with torch.no_grad():
        nats = model(torch.tensor([row.ids])).logits[0, 0].log_softmax(-1)[row.ids[1]]
    assert found.log_probabilities == pytest.approx([float(nats)], abs=1e-5)


# -- longer than the window


def test_a_prompt_loses_its_beginning_and_the_truth_is_kept(gpt2: GPT2LMHeadModel, tokenizer: Any) -> None:
    model = TransformersModel(gpt2, tokenizer)
    prompt, truth = " ".join(POSTS), " Minka left."
    whole = tokenizer(prompt + truth)["input_ids"]
    row = model._truth_row(Truth(prompt, truth), None)
    assert row.ids == whole[-48:]
    assert tokenizer.decode(row.ids[row.first :]) == truth
    scored(model, Truth(prompt, truth))
    assert model.notes == [
        "1 prompts with their truths are longer than the model's window of 48 tokens and lost the prompt's beginning"
    ]


def test_its_first_special_token_is_kept() -> None:
    tokenizer = byte_level("<s>")
    model = LlamaForCausalLM(llama_config(len(tokenizer), max_position_embeddings=32))
    row = TransformersModel(model, tokenizer)._truth_row(Truth(" ".join(POSTS), " Minka left."), None)
    assert len(row.ids) == 32
    assert row.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(row.ids[row.first :]) == " Minka left."


def test_a_truth_longer_than_the_window_is_cut_to_it(gpt2: GPT2LMHeadModel, tokenizer: Any) -> None:
    model = TransformersModel(gpt2, tokenizer)
    truth = " " + " ".join(POSTS)
    (found,) = scored(model, Truth("Read:", truth))
    assert found.tokens == 47  # one token of the prompt stands before it
    assert truth.startswith(found.text)
    assert found.text != truth
    assert "1 truths are longer than the model's window of 48 tokens and were cut to it" in model.notes


def test_a_truth_is_cut_to_the_tokens_that_are_asked_for(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    place = POSTS[0].index(" lost")
    truth = Truth(POSTS[0][:place], POSTS[0][place:])
    (found,) = scored(TransformersModel(llama, tokenizer), truth, most_tokens=5)
    np.testing.assert_allclose(found.log_probabilities, plain_scores(llama, tokenizer, truth, 5)[0], atol=1e-5)
    assert found.text == tokenizer.decode(tokenizer(truth.text)["input_ids"][:5])
    assert truth.text.startswith(found.text)


# -- logits that are odd


def with_logits(tokenizer: Any, change: Any, dtype: torch.dtype = torch.float32) -> TransformersModel:
    torch.manual_seed(5)
    model = LlamaForCausalLM(llama_config(len(tokenizer))).to(dtype)
    model.lm_head.register_forward_hook(lambda _head, _given, logits: change(logits))
    return TransformersModel(model, tokenizer)


def test_logits_that_are_all_alike_know_nothing(tokenizer: Any) -> None:
    """The first of equals is greedy decoding's choice: a model without a preference does not know every truth."""
    (found,) = scored(with_logits(tokenizer, torch.zeros_like), Truth("The mayor", " wept and left."))
    assert not found.is_likeliest.any()
    np.testing.assert_allclose(found.log_probabilities, -np.log(len(tokenizer)), rtol=1e-5)


def test_a_masked_truth_counts_as_tiny(tokenizer: Any) -> None:
    masked = tokenizer(" wept")["input_ids"][0]
    model = with_logits(tokenizer, lambda logits: logits.index_fill(-1, torch.tensor([masked]), -torch.inf))
    (found,) = scored(model, Truth("The mayor", " wept"))
    assert found.log_probabilities[0] == pytest.approx(LEAST_LOG_PROBABILITY)
    assert not found.is_likeliest[0]
    ((_, text),) = model.token_scores(["The mayor wept"], spread=True)
    assert text.means is not None
    assert text.deviations is not None
    assert np.isfinite([text.means, text.deviations]).all()
    assert "the model gives some tokens no finite probability; they count as 1e-38" in model.notes


def test_logits_that_are_not_numbers_are_refused(tokenizer: Any) -> None:
    model = with_logits(tokenizer, lambda logits: logits * torch.nan)
    with pytest.raises(NonfiniteLogitsError, match="NaN or infinite"):
        scored(model, Truth("The mayor", " wept"))


def test_half_precision_ties_as_greedy_decoding_does(tokenizer: Any) -> None:
    """bfloat16 has few numbers, so logits are equal often; the argmax is that of what the model gives."""
    model = with_logits(tokenizer, lambda logits: (logits * 2).round() / 2, torch.bfloat16)
    prompt = "The mayor of Velmora"
    ((_, answer),) = model.continuations([prompt], max_new_tokens=1)
    with torch.no_grad():
        logits = model.model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1]
    first, *others = (logits == logits.max()).nonzero().flatten().tolist()
    assert others, "there is a tie to decide"
    ids = tokenizer(prompt)["input_ids"]
    columns = {
        token: next(
            log_probabilities.read_tokens(
                model.model, [log_probabilities.TokenRow([*ids, token], len(ids))], size=model.size
            )
        )[1]
        for token in (first, others[0])
    }
    assert columns[first][1] == [1.0]
    assert columns[others[0]][1] == [0.0]
    assert answer == model.prompts.decode([first], prompt=ids)
    assert columns[first].dtype == np.float32


# -- read once


def count_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the tokens that a model is given from now on."""
    counts: list[int] = []
    forward = model.model.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        counts.append(ids.numel())
        return forward(*arguments, **named)

    monkeypatch.setattr(model.model, "forward", counted)
    return counts


def test_a_truth_whose_text_was_read_is_not_read_again(
    llama: LlamaForCausalLM, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truths = [Truth(post[:20], post[20:]) for post in POSTS]
    expected = scored(TransformersModel(llama, tokenizer), *truths, most_tokens=8)
    model = TransformersModel(llama, tokenizer)
    list(model.token_scores(POSTS, spread=True))
    counts = count_tokens(llama, monkeypatch)
    for found, other in zip(scored(model, *truths, most_tokens=8), expected, strict=True):
        np.testing.assert_allclose(found.log_probabilities, other.log_probabilities, atol=1e-5)
        assert found.is_likeliest.tolist() == other.is_likeliest.tolist()
        assert found.text == other.text
    list(model.log_probabilities(POSTS))
    scored(model, *truths, most_tokens=8)
    assert counts == []


def test_texts_read_without_their_spread_are_read_again_for_it(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    model = TransformersModel(llama, tokenizer)
    list(model.token_scores(POSTS[:2]))
    assert all(found.means is not None for _, found in model.token_scores(POSTS[:2], spread=True))


def test_examples_that_prompts_share_are_read_once(
    llama: LlamaForCausalLM, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truths = [Truth(f"{EXAMPLES}Question: {n}?\nAnswer:", f" {n}", after) for n in range(8) for after in ("", "\n\n")]
    scored(TransformersModel(llama, tokenizer), *truths)  # finds out the ways
    model = TransformersModel(llama, tokenizer)
    shared = len(tokenizer(EXAMPLES)["input_ids"])
    counts = count_tokens(llama, monkeypatch)
    found = scored(model, *truths)
    assert shared <= sum(counts) < shared + 8 * 20 < 2 * shared, "and a truth that ends alike both ways is read once"
    for each, truth in zip(found, truths, strict=True):
        np.testing.assert_allclose(each.log_probabilities, plain_scores(llama, tokenizer, truth)[0], atol=1e-5)


def test_a_resumed_audit_does_not_read_again(
    llama: LlamaForCausalLM, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are kept in the journal, argmax and spread included."""

    def measure() -> list[TokenScores]:
        with open_journal(tmp_path / "journal.jsonl") as journal:
            model = TransformersModel(llama, tokenizer, batch_size=2, journal=journal)
            return [*dict(model.token_scores(POSTS[:3], spread=True)).values(), *scored(model, *TRUTHS)]

    before = measure()
    counts = count_tokens(llama, monkeypatch)
    after = measure()
    assert counts == []
    for one, other in zip(before, after, strict=True):
        assert one.text == other.text
        np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
        np.testing.assert_array_equal(one.is_likeliest, other.is_likeliest)
        assert (one.means is None) == (other.means is None)
        if one.means is not None and other.means is not None:
            np.testing.assert_array_equal(one.means, other.means)
