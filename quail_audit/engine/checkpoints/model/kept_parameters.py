"""Tell the parameters that every deployment keeps in full precision from matrices that one might round."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = re.compile(r"(^|\.)\d+(\.|$)")  # a part of a list of blocks
TABLE = re.compile(r"embed|^wte$|^wpe$|norm|^ln(_|\d|$)", re.IGNORECASE)  # the last part of a module's name
# Biases, norms' scales, tables of positions and the like: they are no matrices that inputs are multiplied by.
_NO_MATRIX = re.compile(
    r"bias|norm|embed|position|A_log|(^|[._])D$|dt_bias|time_mix|time_decay|time_first|token|query$|probe|latents|scale"
    r"|rel_pos|sinks|mask_emb|seg_embed",
)
_ROUTER = re.compile(r"Router|Statics")  # transformers 5 has no nn.Linear for it, and llama.cpp keeps ffn_gate_inp


def may_be_block_matrix(model: PreTrainedModel, parameter: str, skip_modules: tuple[str, ...] | None) -> bool:
    """Tell whether a parameter lies in a block and may be a matrix that a deployment rounds.

    Embeddings, routers, vectors in disguise and depthwise convolutions are none, nor is what the user asked to skip.
    """
    from torch import nn

    from quail_audit.engine.checkpoints.model.transformers_rules import is_converted

    path, _, name = parameter.rpartition(".")
    module = model.get_submodule(path)
    weight = getattr(module, name)
    if not BLOCK.search(path) or sum(side > 1 for side in weight.shape) < 2:
        return False
    if isinstance(module, nn.Embedding) or _ROUTER.search(type(module).__name__) or _NO_MATRIX.search(name):
        return False
    if weight.dim() > 2 and weight.shape[1] == 1 and hasattr(module, "kernel_size"):
        return False
    return skip_modules is None or is_converted(path, skip_modules)


def may_be_block_tensor(name: str, shape: tuple[int, ...]) -> bool:
    """Tell by name and shape alone if a stored tensor may be a matrix of a block."""
    module = name.removesuffix(".weight")
    return len(shape) >= 2 and not TABLE.search(module.rpartition(".")[2]) and bool(BLOCK.search(module))
