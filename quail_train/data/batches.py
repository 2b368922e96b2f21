"""Plan which samples come in which step, and collate them."""

from collections.abc import Mapping

import torch
from torch import nn


def logits_of(model: nn.Module, batch: Mapping[str, torch.Tensor], rows: slice = slice(None)) -> torch.Tensor:
    """Of some rows: [rows, length, vocabulary], or a classifier's [rows, classes]."""
    ids = batch["input_ids"][rows]
    if "attention_mask" in batch:
        found: torch.Tensor = model(input_ids=ids, attention_mask=batch["attention_mask"][rows]).logits
    else:
        found = model(input_ids=ids, use_cache=False).logits
    return found
