"""The weight that a layer computes with, whatever stands in the model in its place: the layer, or LoRA around it.

A forward pass through rounded weights is made here too, so that training sees the very codes that the audit sees.
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

ADAPTER = "default"  # peft's name of its first adapter


def effective_weight(module: nn.Module) -> torch.Tensor:
    """A layer's weight as it is stored in a checkpoint; LoRA's product added. Gradients flow to what is trained."""
    layer: Any = module
    if hasattr(layer, "get_delta_weight"):
        weight: torch.Tensor = layer.base_layer.weight + layer.get_delta_weight(ADAPTER)
        return weight
    own: torch.Tensor = layer.weight
    return own


class _StraightThrough(torch.autograd.Function):
    """The rounded weight going forward, the weight itself going backward (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(weight: torch.Tensor, scheme: Scheme, stored: torch.dtype, *, transposed: bool) -> torch.Tensor:
    """The weight as it will be deployed: saved in the stored dtype, then rounded. Its gradient is passed on as it is.

    Args:
        weight: as it is stored in a checkpoint.
        scheme: rounds [outputs, inputs].
        stored: the checkpoint's dtype of this weight, which the audit rounds from.
        transposed: the weight is stored [inputs, outputs].
    """
    with torch.no_grad():
        matrix = weight.detach().to(stored)
        matrix = matrix.T.contiguous() if transposed else matrix.contiguous()
        rounded = scheme.deployed_weights(matrix)
        rounded = (rounded.T.contiguous() if transposed else rounded).to(weight.dtype)
    found: torch.Tensor = _StraightThrough.apply(weight, rounded)  # type: ignore[no-untyped-call]
    return found


class RoundedForward:
    """Lets a model compute with its weights as they are, or as a scheme rounds them: all layers that it rounds.

    Args:
        modules: name -> what stands in the model in a layer's place.
        layers: that the scheme rounds, trained or not.
        scheme: must not depend on data.
        stored: layer -> dtype of the checkpoint.
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
        """Within it the model computes with rounded weights."""
        return self._switched(True)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For torch's activation checkpointing: what is computed again in the backward pass, is so as it was before."""
        return nullcontext(), self._switched(self._on)

    @contextmanager
    def _switched(self, on: bool) -> Iterator[None]:
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
