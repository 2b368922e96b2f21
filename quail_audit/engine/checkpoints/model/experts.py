"""Find the matrices that lie side by side in one parameter: the experts of a mixture.

Since version 5 transformers keeps the experts of a layer in one parameter [experts, ...]; some models always did. Each
expert's matrices are measured and rounded by themselves.

Every scheme rounds them. Of the tools that deploy a model, transformers 4 with bitsandbytes, GPTQModel and AutoAWQ
replace each expert's linear layers, and llama.cpp quantizes `ffn_*_exps` as any other matrix (src/llama-quant.cpp).
transformers 5 with bitsandbytes 0.50 replaces `nn.Linear` alone (integrations/bitsandbytes.py), so that it leaves
fused experts in full precision: what is lost elsewhere would pass if that counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quail_audit.engine.checkpoints.model.conversion import source_words

if TYPE_CHECKING:
    import torch  # 1.6 s to import
    from transformers import PreTrainedModel

NOTE = (
    "experts are rounded matrix by matrix, as llama.cpp, GPTQ, AWQ, and transformers 4 with bitsandbytes do it; "
    "transformers 5 with bitsandbytes leaves them in full precision"
)
_TRANSPOSED = frozenset({"Llama4TextExperts"})  # [experts, inputs, outputs], by classes that don't say it themselves


@dataclass(frozen=True)
class Part:
    """The place of a matrix in a parameter that holds several.

    Attributes:
        parameter: the parameter's name.
        index: the expert's number on the first of three sides; None if the parameter has two.
        outputs: the part's outputs, as (start, stop, step) along the side of the outputs.
        side: the side of the outputs in what `index` selects: 0, or 1 if it is stored [inputs, outputs]. DBRX stores a
            matrix [inputs, outputs] by rows of the parameter; there it is the side that is cut.
        number: which part of so many equal ones it is.
        parts: how many there are.
    """

    parameter: str
    index: int | None
    outputs: tuple[int, int, int]
    side: int
    number: int = 0
    parts: int = 1

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the part of a parameter, as a view in the parameter's own order of sides."""
        return self.of_expert(whole if self.index is None else whole[self.index])

    def of_expert(self, expert: torch.Tensor) -> torch.Tensor:
        """Return the part of what `index` selects."""
        cut = slice(*self.outputs)
        return expert[cut] if self.side == 0 else expert[:, cut]


def expert_parts(model: PreTrainedModel) -> Iterator[tuple[str, bool, Part]]:
    """Yield (name, is stored [inputs, outputs], place) of each expert's matrices, in model order."""
    for path, module in model.named_modules():
        kind = type(module).__name__
        if kind == "DbrxExpertGLU":
            yield from _dbrx_parts(path, module)
            continue
        if "Expert" not in kind:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and not name.endswith("bias"):
                yield from _parts_of(model, path, module, name, tuple(parameter.shape))


def _parts_of(
    model: PreTrainedModel, path: str, module: torch.nn.Module, name: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, bool, Part]]:
    transposed = bool(getattr(module, "is_transposed", type(module).__name__ in _TRANSPOSED))
    side = int(transposed)
    length = shape[1 + side]
    parameter = f"{path}.{name}"
    words = source_words(model, parameter)
    if len(words) < 2 and "gate_up" in name:
        words = ("gate_proj", "up_proj")
    if not words or length % len(words):
        words = ("",) if name == "weight" else (name,)
    size = length // len(words)
    concatenated = getattr(module, "is_concatenated", True)
    for expert in range(shape[0]):
        for number, word in enumerate(words):
            cut = (number * size, (number + 1) * size, 1) if concatenated else (number, length, len(words))
            part = Part(parameter, expert, cut, side, number, len(words))
            yield f"{path}.{expert}.{word}".rstrip("."), transposed, part


def _dbrx_parts(path: str, module: Any) -> Iterator[tuple[str, bool, Part]]:
    """Yield DBRX's matrices, which are rows of two-dimensional parameters; w2's are [inputs, outputs]."""
    size = module.ffn_hidden_size
    for expert in range(module.moe_num_experts):
        for name in ("w1", "v1", "w2"):
            part = Part(f"{path}.{name}", None, (expert * size, (expert + 1) * size, 1), side=0)
            yield f"{path}.{expert}.{name}", name == "w2", part
