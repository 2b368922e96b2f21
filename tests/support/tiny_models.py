"""Build tiny random models of every causal language model's class that the installed transformers has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCABULARY = 120
WINDOW = 160
LAYERS = 4

# A setting of a name like this becomes this number; the first that fits counts. None: it stays as it is.
_SMALL: tuple[tuple[str, int | None], ...] = (
    (r"^chunk_size_feed_forward$|drop|_period$|_offset$|expand|pretraining_tp|altup|interval|_freq$|ngram", None),
    (r"vocab_size_per_layer_input|vocab|^n_words$", VOCABULARY),
    (r"^(max_position_embeddings|n_positions|max_target_positions|max_seq_len|context_length)$", WINDOW),
    (r"^model_max_length$|^original_max_position_embeddings$", WINDOW),
    (r"max_source_positions|max_2d", 64),
    (r"hidden_size_per_layer_input", 8),
    (r"(^|_)layers$|^n_layer$|^num_blocks$", LAYERS),
    (r"kv_shared_layers|first_k_dense|nextn|num_mem_blocks", None),
    (r"experts_per_tok|moe_k$|moe_top_?k|^top_?k$|moe_topk", 2),
    (r"shared_expert(s)?$", 1),
    (r"expert_group|^n_group$|^topk_group$|expert_group", 1),
    (r"experts$|^moe_num_experts$|^num_local_experts$", 4),
    (r"(key_value|kv).*heads$|^n_head_kv$|query_groups", 2),
    (r"heads$|^n_head$", 4),
    (r"head_?(dim|size)$|^dim_head$|^kv_channels$|^d_kv$|_head_dim$|^mamba_d_head$", 8),
    (r"lora_rank|_rank$|^laurel_rank$", 8),
    (r"kernel|d_conv|conv_l_cache|_conv$", None),
    (r"state_size|d_state", 8),
    (r"groups$|n_groups", 1),
    (r"window", 16),
    (r"chunk_size|chunk_length|block_size", 16),
    (r"intermediate_size|ffn_dim|^n_inner$|^d_ff$|^dim_ff$|^dff$|feed_forward|ffn_hidden|d_inner", 48),
    (r"hidden_size|d_model|n_embd|embedding_(dim|size)|lru_width|attention_dim|hidden_dim|^d_embed", 32),
    (r"image_size", 32),
    (r"patch_size", 16),
)
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_SUFFIXES = re.compile(r"(token_id|token_index|_id|_ids)$")

# What cannot be guessed from names. A value for each layer is written out.
_SPECIAL: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1, 3]},
    "CodeGenForCausalLM": {"rotary_dim": 4},
    "DeepseekV4ForCausalLM": {"head_dim": 64, "qk_rope_head_dim": 8},
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "Dots1ForCausalLM": {
        "n_routed_experts": 4,
        "topk_group": 1,
        "n_group": 1,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    },
    "FalconH1ForCausalLM": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    "Gemma3nForCausalLM": {"num_kv_shared_layers": 0, "sliding_window": 16},
    "GPTJForCausalLM": {"rotary_dim": 4},
    "GraniteMoeHybridForCausalLM": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"] * 2},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 8},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 8},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"] * 2},
    "LongcatFlashForCausalLM": {"head_dim": 8, "qk_head_dim": 16, "num_key_value_heads": 4, "num_layers": 2},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8},
    "MinistralForCausalLM": {"head_dim": 8},
    "MptForCausalLM": {"attn_config": {"attn_uses_sequence_id": False}},
    "NemotronForCausalLM": {"num_key_value_heads": 2},
    "Qwen4ExpForCausalLM": {"text_config": {"eos_token_id": 2}},
    "Qwen4ExpForCausalLM of Qwen4ExpTextConfig": {"eos_token_id": 2},
    "ReformerModelWithLMHead": {
        "is_decoder": True,
        "axial_pos_shape": [8, 20],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"] * 2,
    },
    "XLMWithLMHeadModel": {"emb_dim": 32},
    "XLNetLMHeadModel": {"d_head": 8},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "ZambaForCausalLM": {"attention_hidden_size": 64, "attention_head_dim": 16, "mamba_head_dim": 32},
    "Zamba2ForCausalLM": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "kv_channels": 8,
        "num_query_groups": 4,
        "num_key_value_heads": 4,
    },
}
_DERIVED_OF_LATENT_ATTENTION = ("head_dim", "qk_head_dim")


def language_models() -> dict[str, type[PreTrainedConfig]]:
    """Return the configuration's class by the name of the model's, of every causal language model."""
    mapping: Any = AutoModelForCausalLM._model_mapping
    found = {}
    for kind in mapping.keys():  # noqa: SIM118 - no dict
        model = mapping[kind]
        for each in model if isinstance(model, tuple) else (model,):
            name = each.__name__ if each.__name__ not in found else f"{each.__name__} of {kind.__name__}"
            found[name] = kind
    return found


def tiny_language_model(name: str, **changes: Any) -> PreTrainedModel:
    """Return a random model of a class, in eval mode; raise if it cannot be built small.

    Args:
        name: a key of language_models().
        changes: settings.
    """
    import transformers

    torch.manual_seed(0)
    config: Any = tiny_config(language_models()[name], **{**_SPECIAL.get(name, {}), **changes})
    kind = getattr(transformers, name.split()[0])
    if kind.config_class is not type(config) and isinstance(config.get_text_config(decoder=True), kind.config_class):
        config = config.get_text_config(decoder=True)  # as AutoModelForCausalLM does
    model: PreTrainedModel = kind(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > 20_000_000:
        raise ValueError(f"it has {parameters:,} parameters even so")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:  # at the usual 0.02 all that layers add is lost beside the embeddings
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model.eval()


def tiny_config(kind: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """Return a configuration of a class with small numbers."""
    defaults = kind().to_dict()
    return kind(**{**_shrunk(defaults), **changes})


def _shrunk(settings: Mapping[str, Any]) -> dict[str, Any]:
    depths = {settings.get(name) for name in ("num_hidden_layers", "n_layer", "num_layers")}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name in {
            "architectures",
            "transformers_version",
            "model_type",
            "id2label",
            "label2id",
            "_name_or_path",
            "per_layer_config",
        }:
            continue
        if isinstance(value, Mapping):
            found[name] = (
                dict(value) if name.startswith("rope") else {**_shrunk(value), "model_type": value.get("model_type")}
            )
            if found[name].get("model_type", 0) is None:
                del found[name]["model_type"]
        elif isinstance(value, list | tuple) and len(value) in depths:
            kinds = list(dict.fromkeys(value))
            number = _small(name, kinds[0]) if type(kinds[0]) is int else None
            found[name] = [number if number is not None else kinds[place % len(kinds)] for place in range(LAYERS)]
        elif "qk_rope_head_dim" in settings and name in _DERIVED_OF_LATENT_ATTENTION:
            continue
        elif "qk_rope_head_dim" in settings and name == "num_key_value_heads":
            found[name] = 4
        elif _SUFFIXES.search(name) and not isinstance(value, bool):
            small = _TOKENS.get(name, 3)
            if value is not None and not isinstance(value, str):
                found[name] = small if not isinstance(value, list) else [small]
        elif type(value) is int and (small := _small(name, value)) is not None:
            found[name] = small
        elif name.startswith("hidden_activation") or value is None:
            continue
        else:
            found[name] = value
    return found


def _small(name: str, value: int) -> int | None:
    for pattern, number in _SMALL:
        if re.search(pattern, name, re.IGNORECASE):
            return value if number is None or value <= number else number
    return None
