"""Find out which ways of asking change a model's answers, and what is said of those that do."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, LlamaForCausalLM, MptConfig, MptForCausalLM, PreTrainedModel

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models import ways
from quail_audit.engine.forgetting.models.batches import BatchSize
from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.log_probabilities import TokenRow, read_tokens
from quail_audit.engine.forgetting.models.ways import ways_of
from tests.support.tiny_language_models import POSTS, greedy_one_at_a_time, llama_config, make_tokenizer
from tests.support.tiny_models import tiny_language_model

LLAMA = "LlamaForCausalLM of LlamaConfig"
TEXT = [5, 6, 7, 8, 9]


@pytest.fixture(autouse=True)
def _nothing_is_known_of_any_structure() -> Iterator[None]:
    ways._found_of_structure.cache_clear()
    yield
    ways._found_of_structure.cache_clear()


def read(model: PreTrainedModel, *texts: Sequence[int], rows: int = 8) -> Any:
    found = read_tokens(model, [TokenRow(ids) for ids in texts], size=BatchSize(rows, None))
    return {index: columns[0] for index, columns in found}


def batches_of(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The rows of each batch that prompts are continued in."""
    ran: list[int] = []
    forward = model.forward

    def counted(input_ids: torch.Tensor, **options: Any) -> Any:
        ran.append(input_ids.shape[0])
        return forward(input_ids=input_ids, **options)

    list(generate(model, prompts, max_new_tokens=1, end_ids=(), size=BatchSize(8, None)))
    monkeypatch.setattr(model, "forward", counted)
    list(generate(model, prompts, max_new_tokens=1, end_ids=(), size=BatchSize(8, None)))
    return ran


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (LLAMA, {"pads_left": True, "caches": True, "pads_right": True, "_stretches": True, "shares_beginning": True}),
        ("RwkvForCausalLM", {"pads_left": False, "caches": True, "pads_right": True, "_stretches": False}),
        ("JambaForCausalLM", {"caches": True, "pads_right": True, "_stretches": False, "splits_head": True}),
        ("BartForCausalLM", {"pads_left": False, "caches": True, "pads_right": True}),
    ],
    ids=["llama", "rwkv", "jamba", "bart"],
)
def test_real_differences_are_seen_in_every_precision(name: str, expected: dict[str, bool], dtype: torch.dtype) -> None:
    model = tiny_language_model(name).to(dtype)
    found = ways_of(model)
    assert {way: getattr(found, way) for way in expected} == expected


def test_rows_of_one_length_still_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[*range(10, 30)], [*range(40, 60)], [11, 12, 13], [14, 15, 16]]
    assert batches_of(tiny_language_model("BartForCausalLM"), monkeypatch, prompts) == [2, 2]
    assert batches_of(tiny_language_model(LLAMA), monkeypatch, prompts) == [4]


def test_rows_that_are_rotated_by_other_angles_share_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = [1.0] * 8
    torch.manual_seed(0)
    scaled = LlamaForCausalLM(
        llama_config(
            200,
            max_position_embeddings=256,
            rope_parameters={
                "rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 48,
            },
        )
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, 200, (length,), generator=generator).tolist() for length in (90, 60, 60, 30, 20)]
    found = read(scaled, *texts)
    for index, text in enumerate(texts):
        ids = torch.tensor([text])
        with torch.no_grad():
            plain = scaled(ids, use_cache=False).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        # the last token, which is not read, may be the one that goes beyond
        assert torch.from_numpy(found[index]) == pytest.approx(plain, abs=2e-5)
    assert batches_of(scaled, monkeypatch, texts) == [1, 2, 2]
    assert not ways_of(scaled).reads_stretches(60)
    assert ways_of(scaled).reads_stretches(40)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_model_that_reads_in_both_directions_is_refused(rows: int) -> None:
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    encoder = BertLMHeadModel(BertConfig(vocab_size=100, is_decoder=False, **settings)).eval()
    for ask in (
        lambda: read(encoder, TEXT, rows=rows),
        lambda: list(generate(encoder, [TEXT], max_new_tokens=2, end_ids=(), size=BatchSize(rows, None))),
    ):
        with pytest.raises(BadInputError, match="looks at the tokens that come after") as caught:
            ask()
        assert "is_decoder" in caught.value.mend
    decoder = BertLMHeadModel(BertConfig(vocab_size=100, is_decoder=True, **settings)).eval()
    assert read(decoder, TEXT, rows=rows)[0].shape == (4,)


def changed(monkeypatch: pytest.MonkeyPatch, change: Any) -> PreTrainedModel:
    """A Llama whose forward pass is `change(forward, ids, options)`."""
    model = tiny_language_model(LLAMA)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda input_ids, **options: change(forward, input_ids, options))
    return model


def fail_on_cache(forward: Any, ids: torch.Tensor, options: dict[str, Any]) -> Any:
    if options.get("use_cache"):
        raise AttributeError("'Cache' object has no attribute 'get_seq_length'")
    return forward(input_ids=ids, **options)


def forget_cache(forward: Any, ids: torch.Tensor, options: dict[str, Any]) -> Any:
    """Read each token as if it were the first."""
    if ids.shape[1] == 1:
        cache = options.pop("past_key_values", None)
        found = forward(input_ids=ids, use_cache=False)
        found.past_key_values = cache
        return found
    return forward(input_ids=ids, **options)


@pytest.mark.parametrize("change", [fail_on_cache, forget_cache])
def test_a_cache_that_fails_or_errs_is_not_used(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = changed(monkeypatch, change)
    prompts = [[10, 11, 12, 13], [20, 21], [30, 31, 32, 33]]
    found = dict(generate(model, prompts, max_new_tokens=4, end_ids=(), size=BatchSize(8, None)))
    assert [found[index] for index in range(3)] == greedy_one_at_a_time(model, prompts, 4, ())
    assert "over its cache" in ways_of(model).notes[0]


def test_a_model_that_fails_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("kernel")

    with pytest.raises(BadInputError, match=r"LlamaForCausalLM of transformers fails on a text .*KeyError: 'kernel'"):
        read(changed(monkeypatch, fail), TEXT)


def test_a_model_that_answers_by_chance_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def roll(forward: Any, ids: torch.Tensor, options: dict[str, Any]) -> Any:
        found = forward(input_ids=ids, **options)
        found.logits = found.logits + torch.randn_like(found.logits)
        return found

    with pytest.raises(BadInputError, match="another answer each time"):
        read(changed(monkeypatch, roll), TEXT)


def test_a_model_that_runs_out_of_positions_is_refused() -> None:
    torch.manual_seed(0)
    model = MptForCausalLM(MptConfig(vocab_size=100, d_model=32, n_heads=4, n_layers=2, max_seq_len=32)).eval()
    with pytest.raises(BadInputError, match="MptForCausalLM of transformers fails on a text of 40 tokens"):
        read(model, [5] * 40)
    assert read(model, [5] * 33)[0].shape == (32,)  # the last is not read


def test_random_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(forward: Any, ids: torch.Tensor, options: dict[str, Any]) -> Any:
        torch.rand(3)
        return forward(input_ids=ids, **options)

    model, before = changed(monkeypatch, draw), torch.get_rng_state()
    assert ways_of(model).pads_left
    assert torch.equal(torch.get_rng_state(), before)


def test_a_note_says_how_the_model_was_asked_in_every_arm() -> None:
    tokenizer = make_tokenizer()
    for _ in range(2):
        model = tiny_language_model("RwkvForCausalLM", vocab_size=len(tokenizer))
        asked = TransformersModel(model, tokenizer)
        list(asked.continuations([POSTS[0][:40], POSTS[1][:20]], max_new_tokens=2))
        assert sum("one length at a time" in note for note in asked.notes) == 1
    asked = TransformersModel(tiny_language_model(LLAMA, vocab_size=len(tokenizer)), tokenizer)
    list(asked.continuations([POSTS[0][:40], POSTS[1][:20]], max_new_tokens=2))
    assert asked.notes == []
