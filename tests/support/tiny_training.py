"""A small world to train in: a model that knows some posts, a copy that was unlearned, and their data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.schema.events.lines import Event
from quail_audit.schema.requests import TrainRequest
from quail_train.training.run import train
from quail_train.training.work import Stop
from tests.support.tiny_language_models import POSTS


def make_world(root: Path, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """root/original, root/unlearned (a little moved in block 1), root/data: three posts to forget, three to keep."""
    llama.save_pretrained(root / "original")
    unlearned = LlamaForCausalLM(llama.config)
    unlearned.load_state_dict(llama.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in unlearned.named_parameters():
            if "layers.1" in name and parameter.dim() == 2:
                parameter += 1e-3 * torch.randn(parameter.shape, generator=generator)
    unlearned.save_pretrained(root / "unlearned")
    for name in ("original", "unlearned"):
        tokenizer.save_pretrained(root / name)
    (root / "data").mkdir()
    for name, posts in (("forget", POSTS[:3]), ("retain", POSTS[3:])):
        (root / "data" / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": post}) for post in posts))
    return root


def request_in(world: Path, out: Path, **changes: Any) -> TrainRequest:
    values: dict[str, Any] = {
        "original": str(world / "original"),
        "unlearned": str(world / "unlearned"),
        "data": str(world / "data"),
        "out": str(out),
        "objective": "ga_gdr",
        "batch_size": 3,
        "max_length": 96,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    return TrainRequest.model_validate({**values, **changes})


def events_of(request: TrainRequest, stop: Stop | None = None) -> Iterator[Event]:
    return train(request, "a-run", ("quail", "train"), stop or Stop(), Path(request.out).with_name("run"))
