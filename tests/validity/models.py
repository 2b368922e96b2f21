"""Make the truth set's tiny models, of several architectures, and their tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from quail_train.demo.tokenizer import BOS, EOS, PAD, UNKNOWN, train_tokenizer

Architecture = Literal["llama", "gpt_neox", "gpt2", "qwen3", "gemma2"]
_LOADER: Any = AutoModelForCausalLM  # untyped
WINDOW = 48  # tokens: a text and its answer; Quail asks for no more than half of it
WIDTH, LAYERS, HEADS = 96, 2, 3
MOST_TOKENS_OF_BPE = 450


def new_tokenizer(texts: Sequence[str], *, words: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of these texts that puts BOS first: one token a word, or a byte-level BPE."""
    if not words:
        return train_tokenizer(texts, MOST_TOKENS_OF_BPE)
    split = pre_tokenizers.Whitespace()
    known = dict.fromkeys(word for text in texts for word, _ in split.pre_tokenize_str(text))
    vocabulary = {word: place for place, word in enumerate([BOS, EOS, PAD, UNKNOWN, *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN
    )


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Return a model of about 0.3 M weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = _LOADER.from_config(
            _config(architecture, tokenizer), attn_implementation="eager", dtype=torch.float32
        )
    model.train(False)
    return model


def read_model(folder: Path) -> PreTrainedModel:
    """Return a checkpoint in float32, ready to be asked."""
    model: PreTrainedModel = _LOADER.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model.train(False)
    return model


def rounded_parameters(model: PreTrainedModel) -> dict[str, tuple[torch.nn.Parameter, bool]]:
    """Return what a 4-bit format rounds: name -> the weight of each linear layer but the head, is it transposed."""
    found: dict[str, tuple[torch.nn.Parameter, bool]] = {}
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        if module is not head and isinstance(module, (torch.nn.Linear, Conv1D)):
            weight = module.weight
            assert isinstance(weight, torch.nn.Parameter)
            found[name] = weight, isinstance(module, Conv1D)
    return found


def _config(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    special: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": architecture == "gemma2",
        "initializer_range": 0.08,
    }
    common: dict[str, Any] = {
        **special,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": WINDOW,
    }
    gated = {**common, "intermediate_size": 256, "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS}
    match architecture:
        case "llama":
            return LlamaConfig(**gated)
        case "qwen3":
            return Qwen3Config(**gated)
        case "gemma2":
            return Gemma2Config(**gated, sliding_window=WINDOW, query_pre_attn_scalar=WIDTH // HEADS)
        case "gpt_neox":
            return GPTNeoXConfig(**common, intermediate_size=384)
        case "gpt2":
            sizes: dict[str, Any] = {
                "n_embd": WIDTH,
                "n_layer": LAYERS,
                "n_head": HEADS,
                "n_positions": WINDOW,
                "n_inner": 384,
            }
            return GPT2Config(**special, **sizes, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
