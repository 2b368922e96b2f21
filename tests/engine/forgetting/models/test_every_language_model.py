"""Hold every language model of transformers, asked in batches, against itself asked plainly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.models import log_probabilities as reading
from quail_audit.engine.forgetting.models.batches import BatchSize
from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.log_probabilities import log_probabilities
from quail_audit.engine.forgetting.models.ways import ways_of
from tests.support.tiny_language_models import greedy_one_at_a_time
from tests.support.tiny_models import VOCABULARY, language_models, tiny_language_model

NEW_TOKENS = 4
STRETCH = 16
SHARED = 40


def rows_of(*lengths: int, beginning: Sequence[int] = ()) -> list[list[int]]:
    """Random rows without special tokens, the same for the same lengths."""
    generator = random.Random(len(lengths))
    return [[*beginning, *(generator.randrange(10, VOCABULARY) for _ in range(length))] for length in lengths]


PROMPTS = (rows_of(37, 5, 18, 18), rows_of(9, 3, beginning=rows_of(SHARED)[0]))
TEXTS = rows_of(60, 9, 33, 33, 2)


def read_one_at_a_time(model: Any, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The slow plain way: one text, all of it at once."""
    found = []
    for text in texts:
        ids = torch.tensor([text])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        found.append(logits.gather(-1, ids[0, 1:, None])[:, 0])
    return found


def hold_against_plain(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ask a model in batches and plainly; return how it was asked: the cell of the table."""
    monkeypatch.setattr(reading, "LOGIT_BYTES", reading.BYTES_PER_LOGIT * VOCABULARY * STRETCH)
    try:
        generated = [
            dict(generate(model, prompts, max_new_tokens=NEW_TOKENS, end_ids=(2,), size=BatchSize(4, None)))
            for prompts in PROMPTS
        ]
        read = dict(log_probabilities(model, TEXTS, size=BatchSize(4, None)))
    except BadInputError as error:
        return f"refused: {error.message}"
    for found, prompts in zip(generated, PROMPTS, strict=True):
        expected = greedy_one_at_a_time(model, prompts, NEW_TOKENS, (2,))
        assert [found[index] for index in range(len(prompts))] == expected
    for index, of_tokens in enumerate(read_one_at_a_time(model, TEXTS)):
        assert torch.from_numpy(read[index]) == pytest.approx(of_tokens, abs=1e-4)
    window = read_model_config(model.config).window
    if window is not None:  # as long as a text is ever asked
        ((_, whole),) = log_probabilities(model, rows_of(window), size=BatchSize(1, None))
        assert np.isfinite(whole).all()
    ways = ways_of(model)
    apart = [
        name
        for name, holds in (
            ("without a cache", ways.caches),
            ("prompts one length at a time", not ways.caches or ways.pads_left),
            ("texts one length at a time", ways.pads_right),
            ("texts not in stretches", ways.reads_stretches(STRETCH)),
        )
        if not holds
    ]
    return ", ".join(apart) or "agrees"


def ask_of(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return how a class is asked; if it reads in both directions, then also how once it is said to be a decoder."""
    found = hold_against_plain(tiny_language_model(name), monkeypatch)
    if "come after" not in found or not hasattr(language_models()[name](), "is_decoder"):
        return found
    return f"{found}; as a decoder: {hold_against_plain(tiny_language_model(name, is_decoder=True), monkeypatch)}"


FEW = (
    "LlamaForCausalLM of LlamaConfig",
    "GPT2LMHeadModel",
    "MambaForCausalLM",
    "JambaForCausalLM",
    "RecurrentGemmaForCausalLM",
    "RwkvForCausalLM",
    "BartForCausalLM",
    "MptForCausalLM",
)


@pytest.mark.parametrize("name", FEW)
def test_few_language_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hold_against_plain(tiny_language_model(name), monkeypatch)
    assert not found.startswith("refused")


@pytest.mark.slow
@pytest.mark.parametrize("name", language_models())
def test_every_language_model(name: str, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    """Agree with the plain way, or be asked more plainly, or be refused; `-rs` lists what could not be built small."""
    try:
        tiny_language_model(name)
    except Exception as error:  # a class's own code, on sizes that it was not made for
        pytest.skip(f"{name} cannot be built small: {type(error).__name__}: {str(error).strip().splitlines()[:1]}")
    found = ask_of(name, monkeypatch)
    record_property("asked", found)
    print(f"{name}: {found}")  # pytest -rP has the table
