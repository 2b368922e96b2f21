"""Batched generation against one prompt at a time, as MUSE's own code generates. Run: make bench.

Prints figures and asserts none of them; asserts that the scores are the same, but where the model's two best tokens lie
so close that the order of a sum decides between them. Both sides run in one go, interleaved, in float32, on the same
prompts.
"""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.metrics.knowmem import MAX_NEW_TOKENS as KNOWMEM_TOKENS
from quail_audit.engine.forgetting.metrics.questions import text_prompts as knowmem_prompts
from quail_audit.engine.forgetting.metrics.rouge import rouge_l
from quail_audit.engine.forgetting.metrics.verbmem import MAX_NEW_TOKENS as VERBMEM_TOKENS
from quail_audit.engine.forgetting.models.batches import batch_size_for
from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.log_probabilities import TokenRow, read_tokens
from tests.support.places import SHARED_DATA

pytestmark = pytest.mark.slow

SAMPLES = 100
SAME_POINTS = 0.1
SAME_SAMPLES = 0.95  # of SAMPLES
TIE_LOGITS = 1e-3  # what float32 sums in another order differ by, at most
MUSE_NEWS = SHARED_DATA / "muse-news"


@dataclass(frozen=True)
class Work:
    """Prompts, and how much to generate for each."""

    name: str
    prompts: Sequence[Sequence[int]]
    new_tokens: int


def one_at_a_time(model: Any, work: Work) -> list[list[int]]:
    found = []
    for prompt in work.prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=work.new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found.append(output[0, len(prompt) :].tolist())
    return found


def compare(model: PreTrainedModel, work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    """Time both ways and compare their scores. Without an end token, so that both generate as many tokens."""
    size = batch_size_for(model.device, None)
    batched_s, loop_s, batched, loop = float("inf"), 0.0, {}, []
    halves = [work.prompts[: len(work.prompts) // 2], work.prompts[len(work.prompts) // 2 :]]
    for half in halves:
        started_s = time.perf_counter()
        loop += one_at_a_time(model, Work(work.name, half, work.new_tokens))
        loop_s += time.perf_counter() - started_s
        started_s = time.perf_counter()
        batched = dict(generate(model, work.prompts, max_new_tokens=work.new_tokens, end_ids=(), size=size))
        batched_s = min(batched_s, time.perf_counter() - started_s)
    generator = random.Random(0)
    same, ties = 0, []
    for index, ids in enumerate(loop):
        # a truth that is half right, so that a token more or less shows in the score
        truth = " ".join(str(token) if generator.random() < 0.5 else "x" for token in ids)
        scores = [rouge_l(truth, " ".join(map(str, answer))) for answer in (ids, batched[index])]
        same += abs(scores[0] - scores[1]) <= SAME_POINTS
        if ids != batched[index]:
            ties.append(margin_where_they_part(model, work.prompts[index], ids, batched[index]))
    lengths = sorted(map(len, work.prompts))
    with capsys.disabled():
        print(
            f"\n{work.name}: {len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens, "
            f"{work.new_tokens} new tokens, {torch.get_num_threads()} threads, batches of {size.used}\n"
            f"  one at a time {loop_s:8.1f} s, {len(lengths) * work.new_tokens / loop_s:8.0f} tokens/s\n"
            f"  batched       {batched_s:8.1f} s, {len(lengths) * work.new_tokens / batched_s:8.0f} tokens/s: "
            f"{loop_s / batched_s:.1f} x\n"
            f"  same ROUGE-L to {SAME_POINTS} on {same} of {len(lengths)}, same tokens on {len(lengths) - len(ties)}"
            + "".join(f"; parted over {margin:.1g} of a logit" for margin in ties)
        )
    assert all(margin < TIE_LOGITS for margin in ties)
    if len(lengths) == SAMPLES:
        assert same >= SAME_SAMPLES * SAMPLES


def margin_where_they_part(model: Any, prompt: Sequence[int], first: Sequence[int], second: Sequence[int]) -> float:
    """How far the logits of the two tokens are apart that two continuations differ in first."""
    place = next(place for place, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *first[:place]]])).logits[0, -1]
    return abs(float(logits[first[place]] - logits[second[place]]))


def random_prompts(vocabulary: int, shortest: int, longest: int, shared: int = 0) -> list[list[int]]:
    generator = random.Random(shared)
    beginning = [generator.randrange(vocabulary) for _ in range(shared)]
    lengths = [generator.randint(shortest, longest) for _ in range(SAMPLES)]
    return [beginning + [generator.randrange(vocabulary) for _ in range(length)] for length in lengths]


@pytest.fixture(scope="module")
def small_llama() -> LlamaForCausalLM:
    """21 M random weights, of a Llama's proportions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=8192,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("name", "shared", "shortest", "longest", "new_tokens"),
    [
        ("VerbMem, short prompts", 0, 24, 64, VERBMEM_TOKENS),
        ("KnowMem, 10 examples in each prompt", 350, 10, 40, KNOWMEM_TOKENS),
    ],
)
def test_small_llama(
    small_llama: LlamaForCausalLM,
    capsys: pytest.CaptureFixture[str],
    name: str,
    shared: int,
    shortest: int,
    longest: int,
    new_tokens: int,
) -> None:
    prompts = random_prompts(small_llama.config.vocab_size, shortest, longest, shared)
    compare(small_llama, Work(f"small Llama, {name}", prompts, new_tokens), capsys)


def test_log_probabilities(small_llama: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]) -> None:
    """A forward pass is bound by arithmetic, so batching gains little: this shows that it costs nothing."""
    texts = random_prompts(small_llama.config.vocab_size, 20, 200)
    size = batch_size_for(small_llama.device, None)
    plain_s = batched_s = float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        plain = []
        for text in texts:
            ids = torch.tensor([text])
            with torch.no_grad():
                plain.append(-float(small_llama(ids, labels=ids, use_cache=False).loss))
        plain_s = min(plain_s, time.perf_counter() - started_s)
        started_s = time.perf_counter()
        found = dict(read_tokens(small_llama, [TokenRow(ids) for ids in texts], size=size))
        batched_s = min(batched_s, time.perf_counter() - started_s)
    with capsys.disabled():
        tokens = sum(map(len, texts))
        print(
            f"\nsmall Llama, log-probabilities: {len(texts)} texts of 20 to 200 tokens, batches of {size.used}\n"
            f"  one at a time {plain_s:6.2f} s, {tokens / plain_s:8.0f} tokens/s\n"
            f"  batched       {batched_s:6.2f} s, {tokens / batched_s:8.0f} tokens/s: {plain_s / batched_s:.1f} x"
        )
    for index, mean in enumerate(plain):
        assert found[index][0].mean() == pytest.approx(mean, abs=1e-4)


@pytest.fixture(scope="module")
def smollm2() -> tuple[PreTrainedModel, Any]:
    folder = os.environ.get("QUAIL_SMOLLM2")
    if not folder:
        pytest.skip("needs SmolLM2 in $QUAIL_SMOLLM2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.real_model
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "samples", "prompt_tokens", "new_tokens"),
    [
        ("VerbMem, prompts cut to 64 tokens", 16, 64, VERBMEM_TOKENS),
        ("VerbMem, MUSE's whole prompts", 4, None, VERBMEM_TOKENS),
        ("KnowMem", 16, None, KNOWMEM_TOKENS),
    ],
)
def test_smollm2(
    smollm2: tuple[PreTrainedModel, Any],
    capsys: pytest.CaptureFixture[str],
    name: str,
    samples: int,
    prompt_tokens: int | None,
    new_tokens: int,
) -> None:
    model, tokenizer = smollm2
    data = read_data(MUSE_NEWS, max_samples=samples)
    if name == "KnowMem":
        texts = knowmem_prompts(data.questions["forget"])
    else:
        texts = [row.prompt for row in data.continuations["forget"]]
    prompts = [tokenizer(text)["input_ids"][:prompt_tokens] for text in texts]
    compare(model, Work(f"SmolLM2-135M on MUSE-News, {name}", prompts, new_tokens), capsys)
