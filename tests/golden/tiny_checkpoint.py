"""The tiny Llama that the checkpoints of this folder were quantized from, and what they were calibrated on.

Written for transformers 4.47 and 5.x alike, as the backends need one or the other.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 48


def save(folder: Path, hidden: int) -> None:
    """A Llama of one block in float16, random and always the same, with a tokenizer of words w2, w3, …"""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).half().save_pretrained(folder)
    words = {"<s>": 0, "</s>": 1, **{f"w{index}": index for index in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))  # noqa: S106 - no passwords
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def calibration(samples: int = 16, length: int = 32) -> list[list[int]]:
    """Random token ids, always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, VOCABULARY, (samples, length), generator=generator).tolist()
