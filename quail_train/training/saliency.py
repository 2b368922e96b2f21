"""Update only the rows of weights that matter most to the forget set (SURE).

A row (an output neuron) is salient if the norm of its gradient of the forget set's loss, at the weights that training
begins with, is in the top tenth of all rows of the trained layers (Zhang et al., arXiv 2410.16454). Their
public code computes the mask anew in each step and applies it in a method that transformers' Trainer never calls, so it
has no effect there; here it is a hook on each weight's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from quail_audit.engine.forgetting.models.classifier import padding_id
from quail_train.data.batches import collate, logits_of
from quail_train.data.samples import TrainingSample
from quail_train.objectives.terms import nll, predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PERCENTILE = 90.0  # default of the public code


def salient_rows(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], samples: Sequence[TrainingSample], *, batch_size: int
) -> dict[str, torch.Tensor]:
    """Return layer -> which rows of its weight are salient: bool [rows, 1].

    Args:
        model: on its device; its gradients are cleared.
        modules: the trained layers. Rows are the first dimension of the weight as the module holds it.
        samples: samples of the forget set.
        batch_size: samples in a batch.
    """
    device = next(model.parameters()).device
    total = sum(sample.counted for sample in samples)
    model.zero_grad()
    for start in range(0, len(samples), batch_size):
        rows = [(sample, None) for sample in samples[start : start + batch_size]]
        batch = {name: values.to(device) for name, values in collate(rows, padding_id(model)).items()}
        loss = nll(predictions(logits_of(model, batch), batch["labels"])).sum() / max(1, total)
        loss.backward()  # type: ignore[no-untyped-call]
    norms = {}
    for name, module in modules.items():
        layer: Any = module
        norms[name] = layer.weight.grad.float().norm(dim=1)
    model.zero_grad()
    threshold = torch.quantile(torch.cat(list(norms.values())).cpu().double(), PERCENTILE / 100)
    return {name: (norm.double() >= threshold.to(norm.device)).unsqueeze(1) for name, norm in norms.items()}


def update_only(modules: Mapping[str, nn.Module], salient: Mapping[str, torch.Tensor]) -> None:
    """Set the gradients of all other rows to zero."""
    for name, module in modules.items():
        layer: Any = module
        layer.weight.register_hook(_mask_gradient(salient[name]))


def _mask_gradient(mask: torch.Tensor) -> Any:
    return lambda gradient: gradient * mask
