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
from quail_audit.engine.forgetting.models.log_probabilities import TokenRow, read_tokens
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
TEXTS = [TokenRow(ids) for ids in rows_of(60, 9, 33, 33, 2)]
# truths after prompts that begin alike, such as in-context examples
TRUTHS = [TokenRow(ids, SHARED + 2) for ids in rows_of(14, 3, 9, beginning=rows_of(SHARED)[0])]


def read_one_at_a_time(model: Any, rows: Sequence[TokenRow]) -> list[torch.Tensor]:
    """The slow plain way: one row, all of it at once, the columns of read_tokens by their definitions."""
    found = []
    for row in rows:
        ids = torch.tensor(row.ids)
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0, row.first - 1 : -1].double()
        nats = logits.log_softmax(-1)
        shares = nats.exp()
        mean = (shares * nats).sum(-1)
        deviation = ((shares * nats.square()).sum(-1) - mean.square()).sqrt()
        targets = ids[row.first :]
        of_target = nats.gather(-1, targets[:, None])[:, 0]
        found.append(torch.stack([of_target, (logits.argmax(-1) == targets).double(), mean, deviation]))
    return found


def hold_against_plain(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ask a model in batches and plainly; return how it was asked: the cell of the table."""
    monkeypatch.setattr(reading, "LOGIT_BYTES", reading.BYTES_PER_LOGIT * VOCABULARY * STRETCH)
    try:
        generated = [
            dict(generate(model, prompts, max_new_tokens=NEW_TOKENS, end_ids=(2,), size=BatchSize(4, None)))
            for prompts in PROMPTS
        ]
        read = [
            dict(read_tokens(model, rows, size=BatchSize(4, None), spread=True)) for rows in (TEXTS, TRUTHS, TRUTHS[:1])
        ]
    except BadInputError as error:
        return f"refused: {error.message}"
    for found, prompts in zip(generated, PROMPTS, strict=True):
        expected = greedy_one_at_a_time(model, prompts, NEW_TOKENS, (2,))
        assert [found[index] for index in range(len(prompts))] == expected
    for of_rows, rows in zip(read, (TEXTS, TRUTHS, TRUTHS[:1]), strict=True):
        for index, columns in enumerate(read_one_at_a_time(model, rows)):
            assert torch.from_numpy(of_rows[index]).double() == pytest.approx(columns, abs=1e-4)
    window = read_model_config(model.config).window
    if window is not None:  # as long as a text is ever asked
        ((_, whole),) = read_tokens(model, [TokenRow(ids) for ids in rows_of(window)], size=BatchSize(1, None))
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
