"""Batched generation against the slow plain loop, and what it does when memory runs out."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM, PreTrainedModel

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.engine.forgetting.models import generation
from quail_audit.engine.forgetting.models.batches import (
    CPU_BYTES,
    MOST_ROWS_ON_CPU,
    BatchSize,
    batch_size_for,
    is_out_of_memory,
    run_in_batches,
    token_bytes,
)
from quail_audit.engine.forgetting.models.generation import generate
from tests.support.tiny_language_models import greedy_one_at_a_time, llama_config

END_IDS = (1,)


def prompts_of(model: PreTrainedModel, count: int, beginning: int = 0, longest: int = 24) -> list[list[int]]:
    generator = random.Random(count)
    vocabulary = model.config.vocab_size
    shared = [generator.randrange(2, vocabulary) for _ in range(beginning)]
    return [
        shared + [generator.randrange(2, vocabulary) for _ in range(generator.randint(1, longest))]
        for _ in range(count)
    ]


def find_ways(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Let the ways to ask be found out, once for each model, before its steps are counted."""
    list(generate(model, prompts, max_new_tokens=1, end_ids=(), size=BatchSize(8, None)))


def random_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(2)
    return LlamaForCausalLM(llama_config(200, **changes)).eval()


def random_gemma2() -> Gemma2ForCausalLM:
    """Layers with a sliding window, and logits that are capped."""
    torch.manual_seed(3)
    config = Gemma2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=8,
        vocab_size=200,
        eos_token_id=1,
    )
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("beginning", [0, 40])
@pytest.mark.parametrize(
    "make", [random_llama, lambda: random_llama(num_key_value_heads=4, tie_word_embeddings=True), random_gemma2]
)
def test_equals_one_prompt_at_a_time(make: Any, beginning: int, rows: int) -> None:
    model = make()
    prompts = prompts_of(model, 7, beginning)
    found = dict(generate(model, prompts, max_new_tokens=8, end_ids=END_IDS, size=BatchSize(rows, None)))
    assert [found[index] for index in range(7)] == greedy_one_at_a_time(model, prompts, 8, END_IDS)


def test_learned_positions_too(gpt2: PreTrainedModel) -> None:
    prompts = prompts_of(gpt2, 9, longest=30)
    found = dict(generate(gpt2, prompts, max_new_tokens=10, end_ids=END_IDS, size=BatchSize(4, None)))
    assert [found[index] for index in range(9)] == greedy_one_at_a_time(gpt2, prompts, 10, END_IDS)


def test_ends_at_the_end_token(llama: LlamaForCausalLM, tokenizer: Any) -> None:
    prompts = [tokenizer(text)["input_ids"] for text in ("Velmora news:", "Ornwick news: Minka Brandovar lost")]
    found = dict(generate(llama, prompts, max_new_tokens=120, end_ids=END_IDS, size=BatchSize(2, None)))
    expected = greedy_one_at_a_time(llama, prompts, 120, END_IDS)
    assert [found[0], found[1]] == expected
    assert all(1 < len(row) < 120 for row in expected), "the model has learned where its texts end"


def test_a_shared_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llama()
    widths: list[tuple[int, int]] = []
    forward = model.model.forward

    def counted(input_ids: torch.Tensor, **options: Any) -> Any:
        widths.append(tuple(input_ids.shape))  # type: ignore[arg-type]
        return forward(input_ids=input_ids, **options)

    prompts = [[*range(2, 102), 110 + index] for index in range(6)]
    find_ways(model, prompts)
    monkeypatch.setattr(model.model, "forward", counted)
    list(generate(model, prompts, max_new_tokens=2, end_ids=(), size=BatchSize(3, None)))
    assert widths == [(1, 100), (3, 1), (3, 1), (3, 1), (3, 1)]


@pytest.mark.parametrize("prompts", [[[5, 6, 7]] * 3, [[5] * 50, [5] * 40], [[7]]])
def test_prompts_that_contain_one_another(prompts: list[list[int]]) -> None:
    model = random_llama()
    found = dict(generate(model, prompts, max_new_tokens=5, end_ids=(), size=BatchSize(8, None)))
    assert [found[index] for index in range(len(prompts))] == greedy_one_at_a_time(model, prompts, 5, ())


def test_rotations_that_depend_on_length_share_no_beginning() -> None:
    scaled = random_llama(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}, max_position_embeddings=32
    )
    prompts = prompts_of(scaled, 4, beginning=40)
    assert generation._shared_length(scaled, prompts) == 0
    assert generation._shared_length(random_llama(), prompts) >= 40


def test_stops_when_all_rows_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llama()
    steps = 0
    forward = model.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        return forward(*arguments, **options)

    prompts = prompts_of(model, 4)
    expected = greedy_one_at_a_time(model, prompts, 40, ())
    find_ways(model, prompts)
    monkeypatch.setattr(model, "forward", counted)
    found = dict(
        generate(
            model,
            prompts,
            max_new_tokens=40,
            end_ids=(),
            size=BatchSize(4, None),
            is_over=lambda ids: len(ids) >= 3,
        )
    )
    assert steps == 3
    assert all(found[index][:3] == expected[index][:3] for index in range(4))


def test_nothing_to_continue_is_no_work() -> None:
    assert list(generate(random_llama(), [], max_new_tokens=3, end_ids=(), size=BatchSize(2, None))) == []


def test_the_models_own_settings_stay(llama: LlamaForCausalLM) -> None:
    before = llama.generation_config.to_dict()
    list(generate(llama, [[5, 6]], max_new_tokens=2, end_ids=END_IDS, size=BatchSize(1, None)))
    assert llama.generation_config.to_dict() == before


# -- memory


class OutOfMemory:
    """Fails on more rows than it has room for."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room = room
        self.error = error
        self.tried: list[int] = []

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return [index * 10 for index in batch]


CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU_ERROR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "99 bytes. Error code 12 (Cannot allocate memory)"
)
WINDOWS_ERROR = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes.")


@pytest.mark.parametrize("error", [CUDA_ERROR, CPU_ERROR, WINDOWS_ERROR, MemoryError()])
def test_rows_are_halved_for_good_when_memory_runs_out(error: Exception) -> None:
    run, size = OutOfMemory(3, error), BatchSize(8, None)
    found = dict(run_in_batches([1] * 20, lambda length: 1, size, run))
    assert found == {index: index * 10 for index in range(20)}
    assert run.tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert (size.most, size.used) == (2, 2)


def test_a_single_row_that_does_not_fit_is_said() -> None:
    run = OutOfMemory(0, CUDA_ERROR)
    with pytest.raises(EnvironmentProblemError, match="single sample of 77 tokens"):
        list(run_in_batches([5, 77], lambda length: 1, BatchSize(2, None), run))


def test_another_error_is_not_swallowed() -> None:
    error = RuntimeError("shapes do not match")
    assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(run_in_batches([1], lambda length: 1, BatchSize(2, None), OutOfMemory(0, error)))


def test_a_batch_that_loses_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows gave 1 results"):
        list(run_in_batches([1, 1], lambda length: 1, BatchSize(2, None), lambda batch: [0]))


def test_a_real_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert is_out_of_memory(caught.value)


def test_running_out_during_generation_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llama()
    forward = model.forward

    def cramped(input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.shape[0] > 2:
            raise CPU_ERROR
        return forward(input_ids=input_ids, **options)

    prompts = prompts_of(model, 7)
    expected = greedy_one_at_a_time(model, prompts, 6, END_IDS)
    monkeypatch.setattr(model, "forward", cramped)
    size = BatchSize(8, None)
    found = dict(generate(model, prompts, max_new_tokens=6, end_ids=END_IDS, size=size))
    assert [found[index] for index in range(7)] == expected
    assert size.used == 1  # 7, 3, 1


def test_longest_rows_go_first_and_take_fewer_at_once() -> None:
    batches: list[list[int]] = []

    def run(batch: Sequence[int]) -> list[None]:
        batches.append(list(batch))
        return [None] * len(batch)

    list(run_in_batches([10, 100, 10, 50, 10], lambda length: length, BatchSize(64, 120), run))
    assert batches == [[1], [3, 0], [2, 4]]


def test_size_on_a_cpu_is_the_same_on_every_run() -> None:
    assert batch_size_for(torch.device("cpu"), None) == BatchSize(MOST_ROWS_ON_CPU, CPU_BYTES)
    assert batch_size_for(torch.device("cpu"), 5) == BatchSize(5, None)
    assert BatchSize(5, None).rows(10**15) == 5
    assert BatchSize(64, 100).rows(10**15) == 1


def test_token_bytes_covers_the_cache() -> None:
    """SmolLM2-135M's shape: 30 layers, 3 key-value heads of 64, float32: 46,080 bytes a token."""
    config = llama_config(
        100, hidden_size=576, intermediate_size=64, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert token_bytes(model) >= 46_080


def test_results_come_as_batches_finish() -> None:
    ran: list[int] = []

    def run(batch: Sequence[int]) -> list[int]:
        ran.append(len(batch))
        return list(batch)

    results: Iterator[tuple[int, int]] = run_in_batches([1] * 4, lambda length: 1, BatchSize(2, None), run)
    next(results)
    assert ran == [2]
