"""Compute the terms of the loss, except the hinge, from logits and labels.

Each term is returned as values per token or per sample; the term is their mean, taken over all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

IGNORED = -100  # a label that does not count in the loss: the convention of transformers
NPO_BETA = 0.1  # Zhang et al., arXiv 2404.05868
SIMNPO_BETA = 1.0  # the default of open-unlearning's SimNPO; Fan et al., arXiv 2410.07163, tune it per benchmark


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions at the counted tokens. A classifier's sample is one token, its classes the vocabulary.

    Attributes:
        logits: float32 [tokens, vocabulary].
        targets: int64 [tokens]: the true tokens.
        rows: int64 [tokens]: number of each token's sample, ascending.
        samples: number of samples, including those without a counted token.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    samples: int


def predictions(logits: torch.Tensor, labels: torch.Tensor) -> Predictions:
    """Return the predictions at the tokens whose label counts.

    Args:
        logits: [samples, length, vocabulary]; the logits at a place predict the token after it, as everywhere in
            transformers. For a classifier [samples, classes].
        labels: [samples, length]; for a classifier [samples].
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


def over_shared_tokens(found: Predictions, original: Predictions) -> tuple[Predictions, Predictions]:
    """Return two models' predictions over the tokens that both have: the first of the larger vocabulary's.

    A log-softmax over these is each model's distribution given that the token is one of them.
    """
    shared = min(found.logits.shape[-1], original.logits.shape[-1])
    return replace(found, logits=found.logits[:, :shared]), replace(original, logits=original.logits[:, :shared])


def nll(found: Predictions) -> torch.Tensor:
    """Return GDR, the loss that gradient ascent climbs: -log p(token), nats [tokens]."""
    return F.cross_entropy(found.logits, found.targets, reduction="none")


def gradient_ascent(found: Predictions, cap_nats: float | None = None) -> torch.Tensor:
    """Return GA: log p(token), nats [tokens]. With a cap, a token less likely than exp(-cap) has no gradient."""
    losses = nll(found)
    return -(losses if cap_nats is None else losses.clamp(max=cap_nats))


def npo(found: Predictions, original: Predictions, beta: float = NPO_BETA) -> torch.Tensor:
    """Return NPO: -2/beta log sigmoid(-beta log(p(text) / p_original(text))), [samples].

    Zhang et al., arXiv 2404.05868, equation 3. A text is its counted tokens; samples without any are left out.
    """
    log_ratio = _sample_sums(nll(original), original) - _sample_sums(nll(found), found)
    return -2 / beta * F.logsigmoid(-beta * log_ratio)


def simnpo(found: Predictions, beta: float = SIMNPO_BETA) -> torch.Tensor:
    """Return SimNPO: -2/beta log sigmoid(-beta/length log p(text)), [samples]; no reference.

    Fan et al., arXiv 2410.07163, with its reward margin at 0. Samples without a counted token are left out.
    """
    lengths = _sample_sums(torch.ones_like(found.targets, dtype=torch.float32), found)
    return -2 / beta * F.logsigmoid(beta * _sample_sums(nll(found), found) / lengths)


def forward_kl(found: Predictions, original: Predictions) -> torch.Tensor:
    """Return KLR: KL(p_original || p) over the vocabulary at each counted token, nats [tokens]."""
    return F.kl_div(
        F.log_softmax(found.logits, dim=-1),
        F.log_softmax(original.logits, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(dim=-1)


def l1_of_update(weights: Mapping[str, torch.Tensor], originals: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of abs(w - w_original) over the trained weights, a scalar."""
    return torch.stack([(weight - originals[name]).abs().sum() for name, weight in weights.items()]).sum()


def _sample_sums(values: torch.Tensor, found: Predictions) -> torch.Tensor:
    """Return the sum over each sample's tokens, for the samples that have any."""
    sums = torch.zeros(found.samples, device=values.device).index_add(0, found.rows, values)
    present = torch.zeros(found.samples, device=values.device, dtype=torch.bool).index_fill(0, found.rows, True)
    return sums[present]
