"""Tiny mixtures of experts, of every way in which transformers keeps experts."""

from typing import Any

import torch
import transformers

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_NEXT: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_JAMBA: dict[str, Any] = {
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "mamba_d_state": 4,
    "mamba_d_conv": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "use_mamba_kernels": False,
}
_LOCAL: dict[str, Any] = {"num_local_experts": 3, "num_experts_per_tok": 2}
_EXPERTS: dict[str, Any] = {"num_experts": 3, "num_experts_per_tok": 2}
_MOE: dict[str, Any] = {**_EXPERTS, "moe_intermediate_size": 32}

# class -> (its configuration's, what makes it tiny, an expert's matrix as Quail names it)
MIXTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "MixtralForCausalLM": ("MixtralConfig", _LOCAL, "model.layers.1.mlp.experts.2.w3"),
    "Qwen2MoeForCausalLM": (
        "Qwen2MoeConfig",
        {**_MOE, "shared_expert_intermediate_size": 32},
        "model.layers.1.mlp.experts.2.up_proj",
    ),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**_MOE, "head_dim": 8}, "model.layers.0.mlp.experts.1.down_proj"),
    "Qwen3NextForCausalLM": ("Qwen3NextConfig", _NEXT, "model.layers.1.mlp.experts.2.gate_proj"),
    "OlmoeForCausalLM": ("OlmoeConfig", _EXPERTS, "model.layers.1.mlp.experts.2.gate_proj"),
    "GptOssForCausalLM": ("GptOssConfig", {**_LOCAL, "head_dim": 8}, "model.layers.1.mlp.experts.2.up_proj"),
    "DeepseekV3ForCausalLM": (
        "DeepseekV3Config",
        {**_DEEPSEEK, "n_group": 1, "topk_group": 1},
        "model.layers.1.mlp.experts.3.up_proj",
    ),
    "DeepseekV2ForCausalLM": ("DeepseekV2Config", _DEEPSEEK, "model.layers.1.mlp.experts.3.up_proj"),
    "MiniMaxForCausalLM": (
        "MiniMaxConfig",
        {**_LOCAL, "head_dim": 8, "layer_types": ["full_attention", "linear_attention"]},
        "model.layers.1.mlp.experts.2.w2",
    ),
    "GraniteMoeForCausalLM": (
        "GraniteMoeConfig",
        _LOCAL,
        "model.layers.1.block_sparse_moe.experts.2.up_proj",
    ),
    "PhimoeForCausalLM": ("PhimoeConfig", _LOCAL, "model.layers.1.mlp.experts.2.w1"),
    "Llama4ForCausalLM": (
        "Llama4TextConfig",
        {"num_local_experts": 3, "intermediate_size_mlp": 64, "head_dim": 8},
        "model.layers.1.feed_forward.experts.2.up_proj",
    ),
    "JambaForCausalLM": ("JambaConfig", _JAMBA, "model.layers.1.feed_forward.experts.2.up_proj"),
    "JetMoeForCausalLM": (
        "JetMoeConfig",
        {"kv_channels": 16, "num_local_experts": 3, "num_experts_per_tok": 2},
        "model.layers.1.mlp.input_linear.2",
    ),
    "AriaTextForCausalLM": (
        "AriaTextConfig",
        {"moe_num_experts": 3, "moe_topk": 2, "moe_num_shared_experts": 1},
        "model.layers.1.mlp.experts.2.up_proj",
    ),
    "Lfm2MoeForCausalLM": (
        "Lfm2MoeConfig",
        {**_MOE, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
        "model.layers.1.feed_forward.experts.2.w3",
    ),
}


def tiny_mixture(kind: str, **changes: Any) -> transformers.PreTrainedModel:
    """Return a mixture with random weights, the same each time."""
    config, sizes, _ = MIXTURES[kind]
    asked = {**_SIZES, **sizes, **changes}
    if kind == "JetMoeForCausalLM":
        del asked["num_attention_heads"]
    model: transformers.PreTrainedModel = getattr(transformers, kind)(getattr(transformers, config)(**asked))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
