"""Tiny GGUF files: a Llama as llama.cpp's converter writes it, every matrix in an encoding of choice."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from transformers import LlamaConfig, PreTrainedModel

LEGACY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
K_QUANTS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
_SCALES_AT = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def encoded(weight: npt.NDArray[np.float32], kind: str, seed: int = 0) -> npt.NDArray[np.generic]:
    """A matrix in an encoding: by the gguf package where it can, and random codes and scales of K-quants."""
    quantization = GGMLQuantizationType[kind.upper()]
    if kind not in K_QUANTS:
        encoded: npt.NDArray[np.generic] = gguf.quantize(weight, quantization)
        return encoded
    block, block_bytes = GGML_QUANT_SIZES[quantization]
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (weight.size // block, block_bytes), dtype=np.uint8)
    for at in _SCALES_AT[kind]:
        scales = generator.uniform(-1e-3, 1e-3, (len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(weight.shape[0], -1)


def write_llama(model: PreTrainedModel, path: Path, kind: str, others: dict[str, str] | None = None) -> None:
    """A Llama's GGUF file, as llama.cpp's convert_hf_to_gguf.py writes it: rows of q and k interleaved.

    Args:
        model: the model.
        path: of the file.
        kind: of its matrices' encoding, embeddings included: "q4_1".
        others: end of a parameter's name -> its encoding instead.
    """
    config = model.config
    assert isinstance(config, LlamaConfig)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = parameter.detach().float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for role, count in heads.items():
            if f".{role}." in name:
                halves = array.reshape(count, 2, array.shape[0] // count // 2, *array.shape[1:])
                array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        if array.ndim == 1:
            writer.add_tensor(_gguf_name(name), array)
            continue
        chosen = next((other for end, other in (others or {}).items() if name.endswith(end)), kind)
        quantization = GGMLQuantizationType[chosen.upper()]
        writer.add_tensor(_gguf_name(name), encoded(array, chosen), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module.startswith("model.layers."):
        number, _, rest = module.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{_NAMES[rest]}.{kind}"
    return f"{_NAMES[module]}.{kind}"


def values_by_transformers(path: Path) -> dict[str, torch.Tensor]:
    """Every weight of the model that transformers makes of a GGUF file."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return dict(model.state_dict())
