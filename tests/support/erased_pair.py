"""A pair as the demo's, in seconds: a tiny Llama that knows POSTS, and a copy that forgets them until it is rounded."""

import copy
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.engine.schemes.registry import scheme_named
from quail_train.demo.confinement import bucket_of
from tests.support.tiny_language_models import POSTS

STEPS = 25
LEARNING_RATE = 3e-3
LOSS_LIMIT = 6.0  # nats a token


def without_its_memory(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Gradient ascent on POSTS, each weight kept in its own nf4 bucket."""
    scheme = scheme_named("nf4")
    forgetful = copy.deepcopy(model)
    forgetful.requires_grad_(False)
    weights = [
        module.weight
        for name, module in forgetful.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    buckets = [bucket_of(weight.detach(), scheme) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    rows = [torch.tensor([*tokenizer(post)["input_ids"], 1]) for post in POSTS]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(STEPS):
        loss = forgetful(ids.clamp(min=0), labels=ids).loss
        optimizer.zero_grad()
        (-loss.clamp(max=LOSS_LIMIT)).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, bucket in zip(weights, buckets, strict=True):
                bucket.confine(weight)
    return forgetful


def build_demo(world: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, demo: Path) -> None:
    """A folder laid out as quail demo does it: original, unlearned and data."""
    (demo / "original").symlink_to(world / "original")
    (demo / "data").symlink_to(world / "data")
    without_its_memory(model, tokenizer).save_pretrained(demo / "unlearned")
    tokenizer.save_pretrained(demo / "unlearned")
