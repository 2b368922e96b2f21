"""Let a model compute with its weights, LoRA included, or with their rounded values.

Rounding is the audit's own, so that training sees the same codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.schemes.interface import Scheme

ADAPTER = "default"  # peft's name for its first adapter


def effective_weight(module: nn.Module) -> torch.Tensor:
    """Return a layer's weight as stored in a checkpoint, LoRA's product added. Gradients flow to trained weights."""
    layer: Any = module
    if hasattr(layer, "get_delta_weight"):
        weight: torch.Tensor = layer.base_layer.weight + layer.get_delta_weight(ADAPTER)
        return weight
    own: torch.Tensor = layer.weight
    return own


class _StraightThrough(torch.autograd.Function):
    """Uses the rounded weight forward and the weight itself backward (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(weight: torch.Tensor, scheme: Scheme, stored: torch.dtype, *, transposed: bool) -> torch.Tensor:
    """Return the weight as deployed: saved in the stored dtype, then rounded. Its gradient passes unchanged.

    Args:
        weight: as stored in a checkpoint.
        scheme: scheme that rounds it, as [outputs, inputs].
        stored: dtype of this weight in the checkpoint; the audit rounds from it.
        transposed: True if the weight is stored [inputs, outputs].
    """
    with torch.no_grad():
        matrix = weight.detach().to(stored)
        matrix = matrix.T.contiguous() if transposed else matrix.contiguous()
        rounded = scheme.deployed_weights(matrix)
        rounded = (rounded.T.contiguous() if transposed else rounded).to(weight.dtype)
    found: torch.Tensor = _StraightThrough.apply(weight, rounded)  # type: ignore[no-untyped-call]
    return found


class RoundedForward:
    """Lets a model compute with its weights as they are, or with all layers rounded by a scheme.

    Args:
        modules: layer -> its module in the model.
        layers: layers that the scheme rounds, trained or not.
        scheme: scheme without calibration data.
        stored: layer -> its dtype in the checkpoint.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        layers: tuple[Layer, ...],
        scheme: Scheme,
        stored: Mapping[str, torch.dtype],
    ) -> None:
        self._on = False
        for layer in layers:
            module: Any = modules[layer.name]
            module.forward = self._forward(module, layer, scheme, stored[layer.name])

    def rounded(self) -> AbstractContextManager[None]:
        """Return a context in which the model computes with rounded weights."""
        return self._switch(True)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return torch's contexts for activation checkpointing: recompute with the weights of the forward pass."""
        return nullcontext(), self._switch(self._on)

    @contextmanager
    def _switch(self, on: bool) -> Iterator[None]:
        before, self._on = self._on, on
        try:
            yield
        finally:
            self._on = before

    def _forward(self, module: Any, layer: Layer, scheme: Scheme, stored: torch.dtype) -> Callable[..., torch.Tensor]:
        plain: Callable[..., torch.Tensor] = module.forward
        transposed = layer.transposed

        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if not self._on:
                return plain(x, *args, **kwargs)
            weight = straight_through(effective_weight(module), scheme, stored, transposed=transposed)
            bias = getattr(getattr(module, "base_layer", module), "bias", None)
            return F.linear(x, weight.T if transposed else weight, bias)

        return forward
