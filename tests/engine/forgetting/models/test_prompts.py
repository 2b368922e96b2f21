"""Prompts as a model was trained to see them: tables over tokenizers and what they put around a text."""

from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.prompts import Encoded, Prompts
from tests.support.tiny_language_models import POSTS, llama_config
from tests.support.tiny_tokenizers import FAMILIES, byte_level, metaspace

AROUND = [("", ""), ("<s>", ""), ("<s>", "</s>"), ("", "</s>"), ("[gMASK]<sop>", ""), ("[CLS]", "[SEP]")]


def own_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The reference: the tokenizers library's own ids of a text, with nothing around them."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def ids_of(tokenizer: Any, specials: str) -> list[int]:
    return [
        tokenizer.convert_tokens_to_ids(token) for token in specials.replace("><", "> <").replace("]<", "] <").split()
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("before", "after"), AROUND)
def test_what_comes_before_comes_once_and_what_comes_behind_never(family: str, before: str, after: str) -> None:
    tokenizer = FAMILIES[family](before, after)
    prompts, first = Prompts(tokenizer), ids_of(tokenizer, before)
    for text in (*POSTS, "", "a"):
        found = prompts.encode(text)
        assert found.ids == [*first, *own_ids(tokenizer, text)], text
        assert (found.first, found.brought) == (len(first), 0)
        assert found.left_out == len(ids_of(tokenizer, after))
    for text in POSTS:
        brings = prompts.encode(before + text)
        assert brings.ids == own_ids(tokenizer, before + text)
        assert (brings.first, brings.brought) == (len(first), len(first))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_own_tokens_are_left(family: str) -> None:
    """Special tokens inside a text, doubled ones and an end that the text brings are what the model was shown."""
    tokenizer = FAMILIES[family]("<s>", "</s>")
    prompts = Prompts(tokenizer)
    for text in ("One</s>", "One <s> two", "<s><s>One", "</s>", "<s>"):
        own = own_ids(tokenizer, text)
        assert prompts.encode(text).ids == (own if own[0] == 0 else [0, *own])


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_and_padding_that_were_saved_change_nothing(family: str, tmp_path: Any) -> None:
    FAMILIES[family]("<s>", "", cut_to=5, pad_to=64).save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.truncation is not None
    assert len(plain.encode("a").ids) == 64
    plain.no_truncation()
    plain.no_padding()
    for text in (POSTS[0], "a", ""):
        assert Prompts(saved).encode(text).ids == plain.encode(text).ids


def test_a_cut_keeps_the_special_tokens_at_the_beginning() -> None:
    assert Encoded([0, 5, 6, 7, 8], first=1).end(3) == [0, 7, 8]
    assert Encoded([0, 1, 5, 6, 7, 8], first=2).end(4) == [0, 1, 7, 8]
    assert Encoded([5, 6, 7, 8]).end(3) == [6, 7, 8]
    assert Encoded([0, 5, 6], first=1).end(3) == [0, 5, 6]
    assert Encoded([0, 5, 6], first=1).end(1) == [6]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("before", ["", "<s>"])
def test_an_answer_reads_on_from_its_prompt(family: str, before: str) -> None:
    """A prompt's text and its answer's are the text of both together, wherever the ids are cut."""
    tokenizer = FAMILIES[family](before, "")
    prompts = Prompts(tokenizer)
    ids = prompts.encode(POSTS[2]).ids

    def text(part: list[int]) -> str:
        return str(tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    for place in range(len(before) + 1, len(ids)):
        answer = prompts.decode(ids[place:], prompt=ids[:place])
        rest = text(ids).removeprefix(text(ids[:place]))
        assert answer == tokenizer.clean_up_tokenization(rest)


def test_a_first_word_keeps_its_space_and_a_middle_its_word() -> None:
    two: Any = metaspace()
    pieces: Any = FAMILIES["word pieces"]()
    ids = own_ids(two, "The mayor")
    place = next(n for n, token in enumerate(two.convert_ids_to_tokens(ids)) if n and token.startswith("▁"))
    assert not two.decode(ids[place:]).startswith(" ")
    assert Prompts(two).decode(ids[place:], prompt=ids[:place]).startswith(" ")
    ids = own_ids(pieces, "Velmora Velmorakettles")
    place = next(n for n, token in enumerate(pieces.convert_ids_to_tokens(ids)) if token.startswith("##"))
    assert pieces.decode(ids[place:]).startswith("##")
    assert not Prompts(pieces).decode(ids[place:], prompt=ids[:place]).startswith("##")


def spied(model: LlamaForCausalLM, tokenizer: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the ids that the model is given for prompts, and the notes about them."""
    seen: list[list[int]] = []
    real = generate

    def spy(given: Any, ids: Any, **named: Any) -> Any:
        seen.extend(map(list, ids))
        return real(given, ids, **named)

    monkeypatch.setattr(f"{TransformersModel.__module__}.generate", spy)
    wrapped = TransformersModel(model, tokenizer)
    list(wrapped.continuations(prompts, max_new_tokens=4))
    return seen, wrapped.notes


def test_a_rendered_template_and_a_cut_prompt_begin_once_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level("<s>", "</s>")
    model = LlamaForCausalLM(llama_config(len(tokenizer), max_position_embeddings=64))
    seen, notes = spied(model, tokenizer, ["<s>Velmora news: ", "Velmora news: " * 60], monkeypatch)
    assert [ids.count(0) for ids in seen] == [1, 1]
    assert [ids[0] for ids in seen] == [0, 0]
    assert seen[1][1:] == own_ids(tokenizer, "Velmora news: " * 60)[-59:]
    window = "window of 64 tokens"
    assert notes == [
        "1 of 2 prompts begin with <s> themselves and got no second one, such as '<s>Velmora news: '",
        "the tokenizer puts </s> behind every text; it was left out of prompts, such as '<s>Velmora news: '",
        f"1 prompts are longer than the model's {window} and lost their beginning but for its first token, <s>",
    ]


def test_texts_are_read_without_the_end_that_the_tokenizer_puts_behind_them() -> None:
    plain, ended = byte_level("<s>", ""), byte_level("<s>", "</s>")
    model = LlamaForCausalLM(llama_config(len(plain)))
    for text in (POSTS[0], f"<s>{POSTS[0]}"):
        ((_, expected),) = TransformersModel(model, plain).log_probabilities([POSTS[0]])
        ((_, found),) = TransformersModel(model, ended).log_probabilities([text])
        assert found.tolist() == expected.tolist()
    assert TransformersModel(model, ended).cut(POSTS[0], 6) == TransformersModel(model, plain).cut(POSTS[0], 6)


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer_end", "expected", "ignored"),
    [
        (5, 1, "</s>", (5, 1), ""),  # a chat model's turn, and its tokenizer's end
        ([5, 6], 1, "</s>", (5, 6, 1), ""),
        (None, 6, "</s>", (6, 1), ""),
        (None, [6, 7], None, (6, 7), ""),
        (None, None, None, (), ""),
        (10_000, 10_000, "</s>", (1,), "10000"),
        ([-1, 5], None, None, (5,), "-1"),
        (10_000, None, None, (), "10000"),
    ],
)
def test_end_tokens(generation: Any, config: Any, tokenizer_end: str | None, expected: Any, ignored: str) -> None:
    tokenizer = byte_level("<s>", "")
    tokenizer.eos_token = tokenizer_end
    model = LlamaForCausalLM(llama_config(len(tokenizer)))
    model.config.eos_token_id, model.generation_config.eos_token_id = config, generation
    wrapped = TransformersModel(model, tokenizer)
    assert wrapped.end_ids == expected
    about = "end tokens outside the model's vocabulary of 400 tokens were ignored: "
    assert wrapped.notes == ([about + ignored] if ignored else [])
    assert len(dict(wrapped.continuations([POSTS[0], "", "a"], max_new_tokens=3))) == 3
