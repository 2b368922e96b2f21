"""What the tests of this folder need besides the tokenizer and the Llama of tests/conftest.py."""

from collections.abc import Iterator

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small run faster on one thread, and far faster where another process wants the other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gpt2(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Random weights, learned positions and a small window."""
    torch.manual_seed(1)
    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=4, n_positions=48, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1
    )
    return GPT2LMHeadModel(config).eval()
