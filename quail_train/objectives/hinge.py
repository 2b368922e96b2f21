"""Compute the QUAIL hinge: a loss while logits are within a margin of the original's.

Mishra and Mehreen, arXiv 2601.15538: max(0, margin - abs(z - z_original)) over tokens and vocabulary of the forget set.
This is "per-logit"; shifting all logits of a token alike also satisfies it, and changes no prediction. The other forms
measure distances that change predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from quail_audit.schema.requests import HingeForm
from quail_train.objectives.terms import Predictions


@dataclass(frozen=True, eq=False)
class Hinge:
    """The hinge at each counted token.

    Attributes:
        values: [tokens]: max(0, margin - distance); the mean over the vocabulary if there is a distance per logit.
        satisfied: [tokens]: share of distances at or beyond the margin.
    """

    values: torch.Tensor
    satisfied: torch.Tensor


def hinge(form: HingeForm, found: Predictions, original: Predictions, margin: float) -> Hinge:
    """Return the hinge of a form, in the unit of its distance: logits, or nats for "log-probability".

    The distance's derivative at 0 is taken as 0, so the hinge gives no direction to a model that equals the original.
    """
    distance = DISTANCES[form](found, original)
    return Hinge(values=(margin - distance).clamp(min=0).mean(dim=-1), satisfied=(distance >= margin).float().mean(-1))


def _per_logit(found: Predictions, original: Predictions) -> torch.Tensor:
    return (found.logits - original.logits).abs()


def _per_centred_logit(found: Predictions, original: Predictions) -> torch.Tensor:
    shift = found.logits - original.logits
    return (shift - shift.mean(dim=-1, keepdim=True)).abs()


def _log_probability(found: Predictions, original: Predictions) -> torch.Tensor:
    return (F.log_softmax(found.logits, dim=-1) - F.log_softmax(original.logits, dim=-1)).abs()


def _l1(found: Predictions, original: Predictions) -> torch.Tensor:
    return (found.logits - original.logits).abs().sum(dim=-1, keepdim=True)


def _l2(found: Predictions, original: Predictions) -> torch.Tensor:
    shift = found.logits - original.logits
    # not norm(): its derivative at 0 is not 0 but undefined
    squared = shift.square().sum(dim=-1, keepdim=True)
    return torch.where(squared > 0, squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt(), squared)


def _true_token_drop(found: Predictions, original: Predictions) -> torch.Tensor:
    targets = found.targets.unsqueeze(-1)
    return original.logits.gather(-1, targets) - found.logits.gather(-1, targets)


# Each returns distances [tokens, vocabulary], or [tokens, 1] for one distance per token.
DISTANCES: Mapping[HingeForm, Callable[[Predictions, Predictions], torch.Tensor]] = {
    "per-logit": _per_logit,
    "centred": _per_centred_logit,
    "log-probability": _log_probability,
    "l1": _l1,
    "l2": _l2,
    "true-token": _true_token_drop,
}
