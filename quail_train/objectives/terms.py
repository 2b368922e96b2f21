"""The terms of the loss but the hinge, each a function of logits and labels: tokens', or a classifier's classes.

Every term gives values whose mean is the term, one a token or one a sample, so that the mean can be taken over all
processes. Not here: the hinge (hinge.py), which terms make up an objective (presets.py), and how they are weighed
(trainer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

IGNORED = -100  # a label that has no say in the loss: the convention of transformers
NPO_BETA = 0.1  # Zhang et al., arXiv 2404.05868
SIMNPO_BETA = 1.0  # the default of open-unlearning's SimNPO; Fan et al., arXiv 2410.07163, tune it for each benchmark


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for the tokens that count. A classifier's samples count as one token each, of its classes.

    Attributes:
        logits: float32 [tokens, vocabulary].
        targets: int64 [tokens]: the tokens that came.
        rows: int64 [tokens]: the sample that each is of, ascending.
        samples: how many samples there are, those without a token that counts included.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    samples: int


def predictions(logits: torch.Tensor, labels: torch.Tensor) -> Predictions:
    """The predictions of the tokens whose label counts: logits [samples, length, vocabulary], labels [samples, length].

    The logits at a place predict the token after it, as everywhere in transformers. Or of a classifier: logits
    [samples, classes], labels [samples].
    """
    if logits.dim() == 2:
        rows = torch.arange(labels.shape[0], device=labels.device)
        return Predictions(logits=logits.float(), targets=labels, rows=rows, samples=labels.shape[0])
    shifted = labels[:, 1:]
    counts = shifted != IGNORED
    rows = torch.arange(labels.shape[0], device=labels.device).unsqueeze(1).expand_as(shifted)
    return Predictions(
        logits=logits[:, :-1][counts].float(), targets=shifted[counts], rows=rows[counts], samples=labels.shape[0]
    )


def nll(found: Predictions) -> torch.Tensor:
    """GDR, and what gradient ascent climbs: -log p(token), nats [tokens]."""
    return F.cross_entropy(found.logits, found.targets, reduction="none")


def gradient_ascent(found: Predictions, cap_nats: float | None = None) -> torch.Tensor:
    """GA: log p(token), nats [tokens]; with a cap, a token already less likely than exp(-cap) has no gradient."""
    losses = nll(found)
    return -(losses if cap_nats is None else losses.clamp(max=cap_nats))


def npo(found: Predictions, original: Predictions, beta: float = NPO_BETA) -> torch.Tensor:
    """NPO: -2/beta log sigmoid(-beta log(p(text) / p_original(text))), [samples].

    Zhang et al., arXiv 2404.05868, equation 3. Of a sample's text the tokens that count; samples without any are left
    out.
    """
    log_ratio = _per_sample(nll(original), original) - _per_sample(nll(found), found)
    return -2 / beta * F.logsigmoid(-beta * log_ratio)


def simnpo(found: Predictions, beta: float = SIMNPO_BETA) -> torch.Tensor:
    """SimNPO: -2/beta log sigmoid(-beta/length log p(text)), [samples]; no reference.

    Fan et al., arXiv 2410.07163, with its reward margin at 0. Samples without a token that counts are left out.
    """
    lengths = _per_sample(torch.ones_like(found.targets, dtype=torch.float32), found)
    return -2 / beta * F.logsigmoid(beta * _per_sample(nll(found), found) / lengths)


def forward_kl(found: Predictions, original: Predictions) -> torch.Tensor:
    """KLR: KL(p_original || p) over the vocabulary at each token that counts, nats [tokens]."""
    return F.kl_div(
        F.log_softmax(found.logits, dim=-1),
        F.log_softmax(original.logits, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(dim=-1)


def l1_of_update(weights: Mapping[str, torch.Tensor], originals: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of abs(w - w_original) over the trained weights, a scalar."""
    return torch.stack([(weight - originals[name]).abs().sum() for name, weight in weights.items()]).sum()


def _per_sample(values: torch.Tensor, found: Predictions) -> torch.Tensor:
    """Sums over each sample's tokens, of the samples that have any."""
    sums = torch.zeros(found.samples, device=values.device).index_add(0, found.rows, values)
    present = torch.zeros(found.samples, device=values.device, dtype=torch.bool).index_fill(0, found.rows, True)
    return sums[present]
