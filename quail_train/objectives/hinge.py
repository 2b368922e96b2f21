"""The QUAIL hinge: it costs as long as the model's logits on the forget set are within a margin of the original's.

Mishra and Mehreen, arXiv 2601.15538: max(0, margin - abs(z - z_original)) over tokens and vocabulary. That is
"per-logit"; it is also satisfied by shifting all logits of a token alike, which changes no prediction. The other forms
are ways to say "different" that predictions notice. Not here: the margin (margin.py).
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
    """The hinge at each token that counts.

    Attributes:
        values: [tokens]: max(0, margin - distance), the mean over the vocabulary where there is a distance a logit.
        satisfied: [tokens]: the share of distances at or beyond the margin.
    """

    values: torch.Tensor
    satisfied: torch.Tensor


def hinge(form: HingeForm, found: Predictions, original: Predictions, margin: float) -> Hinge:
    """The hinge of a form, in the unit of its distance: logits, or nats for "log-probability".

    The distance's derivative at 0 is taken as 0, so a model that is the original itself is given no direction by it.
    """
    distance = DISTANCES[form](found, original)
    return Hinge(values=(margin - distance).clamp(min=0).mean(dim=-1), satisfied=(distance >= margin).float().mean(-1))


def _per_logit(found: Predictions, original: Predictions) -> torch.Tensor:
    return (found.logits - original.logits).abs()


def _centred(found: Predictions, original: Predictions) -> torch.Tensor:
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


def _fall_of_true_token(found: Predictions, original: Predictions) -> torch.Tensor:
    targets = found.targets.unsqueeze(-1)
    return original.logits.gather(-1, targets) - found.logits.gather(-1, targets)


# Each gives distances [tokens, vocabulary], or [tokens, 1] where there is one a token.
DISTANCES: Mapping[HingeForm, Callable[[Predictions, Predictions], torch.Tensor]] = {
    "per-logit": _per_logit,
    "centred": _centred,
    "log-probability": _log_probability,
    "l1": _l1,
    "l2": _l2,
    "true-token": _fall_of_true_token,
}
