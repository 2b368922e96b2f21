"""Tiny models of several families, saved as checkpoints, for the tests of this folder."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

VOCABULARY = 96


def llama_config(**changes: Any) -> LlamaConfig:
    values: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
    }
    return LlamaConfig(**{**values, **changes})


def gpt2_config(**changes: Any) -> GPT2Config:
    values: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": VOCABULARY}
    return GPT2Config(**{**values, "bos_token_id": 1, "eos_token_id": 2, **changes})


CONFIGS: dict[str, PretrainedConfig] = {
    "llama": llama_config(),
    "llama, tied": llama_config(tie_word_embeddings=True),
    "gpt2": gpt2_config(),
    "qwen2": Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
    ),
    "gpt-neox": GPTNeoXConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY
    ),
    "opt": OPTConfig(
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        word_embed_proj_dim=64,
        max_position_embeddings=32,
    ),
    "mixtral": MixtralConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        num_local_experts=2,
    ),
}


def build(config: PretrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(seed)
    if config.architectures == ["LlamaForSequenceClassification"]:
        return LlamaForSequenceClassification(config).to(dtype)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).to(dtype)
    return model


def save(
    folder: Path,
    config: PretrainedConfig | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> PreTrainedModel:
    """Make a model and save it in the folder; returns it."""
    model = build(config or llama_config(), seed, dtype)
    model.save_pretrained(folder, **options)
    return model


def save_bin(folder: Path, model: PreTrainedModel, shards: int = 1) -> None:
    """The model as torch.save files, as checkpoints were before safetensors."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = list(state)
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = names[shard::shards]
        torch.save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
