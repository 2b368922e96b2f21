"""The losses of the public implementations on the same logits: equal where they are right, explained where not.

Written here from their formulas: MUSE's trainer (Shi et al., github.com/swj0419/muse_bench, as the code of Zhang et
al., github.com/zzwjames/FailureLLMUnlearning, has it in baselines/baselines/iterative.py), and open-unlearning
(github.com/locuslab/open-unlearning, src/trainer/utils.py and src/trainer/unlearn/simnpo.py).
"""

import pytest
import torch
from torch.nn import functional as F

from quail_train.objectives.terms import IGNORED, forward_kl, gradient_ascent, nll, npo, predictions, simnpo

VOCABULARY, BETA = 11, 0.1
FULL_LABELS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
PADDED_LABELS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, IGNORED, IGNORED, IGNORED]])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 6, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


U, O = logits(0), logits(1)  # noqa: E741 - of the unlearned and the original


def loss_of_transformers(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The `loss` that a causal language model returns, which both build on."""
    return F.cross_entropy(found[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def batch_nll(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """open-unlearning's compute_batch_nll: sums over each sample."""
    losses = F.cross_entropy(found[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return losses.sum(-1)


@pytest.mark.parametrize("labels", [FULL_LABELS, PADDED_LABELS])
def test_ga_and_gdr_are_theirs(labels: torch.Tensor) -> None:
    found = predictions(U, labels)
    torch.testing.assert_close(gradient_ascent(found).mean(), -loss_of_transformers(U, labels))
    torch.testing.assert_close(nll(found).mean(), loss_of_transformers(U, labels))


@pytest.mark.parametrize("labels", [FULL_LABELS, PADDED_LABELS])
def test_npo_is_open_unlearning_s(labels: torch.Tensor) -> None:
    log_ratio = -(batch_nll(U, labels) - batch_nll(O, labels))
    theirs = -2 / BETA * F.logsigmoid(BETA * (0.0 - log_ratio)).mean()
    torch.testing.assert_close(npo(predictions(U, labels), predictions(O, labels), BETA).mean(), theirs)


def test_npo_is_not_muse_s_which_compares_every_logit() -> None:
    """MUSE takes the difference of raw logits, of all the vocabulary and every place, for the log-ratio of a text.

    So a shift of all logits alike, which changes no probability, changes it.
    """

    def muse(u: torch.Tensor) -> torch.Tensor:
        return -F.logsigmoid(BETA * (O - u)).mean() * 2 / BETA

    ours = [npo(predictions(u, FULL_LABELS), predictions(O, FULL_LABELS), BETA).mean() for u in (U, U + 3.0)]
    torch.testing.assert_close(ours[0], ours[1])
    assert abs(float(muse(U) - muse(U + 3.0))) > 1.0
    assert abs(float(ours[0] - muse(U))) > 0.1


def test_simnpo_is_open_unlearning_s_but_for_its_count_of_tokens() -> None:
    """Theirs divides by the labels of a sample, the first included, which nothing predicts: one too many.

    With labels whose first does not count, as where a prompt comes before, the two are one.
    """

    def theirs(labels: torch.Tensor) -> torch.Tensor:
        means = batch_nll(U, labels) / (labels != IGNORED).sum(-1)
        return -F.logsigmoid(BETA * means).mean() * 2 / BETA

    prompted = FULL_LABELS.clone()
    prompted[:, 0] = IGNORED
    torch.testing.assert_close(simnpo(predictions(U, prompted), BETA).mean(), theirs(prompted))
    lengths = torch.tensor([5.0, 5.0])
    corrected = -F.logsigmoid(BETA * batch_nll(U, FULL_LABELS) / lengths).mean() * 2 / BETA
    ours = simnpo(predictions(U, FULL_LABELS), BETA).mean()
    torch.testing.assert_close(ours, corrected)
    assert abs(float(ours - theirs(FULL_LABELS))) > 1e-3


def test_klr_is_open_unlearning_s_on_the_places_that_count() -> None:
    """Theirs takes every place, padding and the last one included; ours those whose next token counts."""

    def theirs(u: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        u, o = (F.log_softmax(side, -1).view(-1, VOCABULARY) for side in (u, o))
        return F.kl_div(u, o, reduction="batchmean", log_target=True)

    found = forward_kl(predictions(U, FULL_LABELS), predictions(O, FULL_LABELS)).mean()
    torch.testing.assert_close(found, theirs(U[:, :-1], O[:, :-1]))
    kept = forward_kl(predictions(U, PADDED_LABELS), predictions(O, PADDED_LABELS)).mean()
    assert abs(float(kept - theirs(U, O))) > 1e-2


def test_klr_is_not_muse_s_which_takes_raw_logits_for_log_probabilities() -> None:
    """exp(logit) is no probability: MUSE's is not 0 where nothing differs in what is predicted, and can be negative."""

    def muse(u: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        return F.kl_div(u, o, reduction="batchmean", log_target=True)

    shifted = O + 1.0  # the same predictions
    ours = forward_kl(predictions(shifted, FULL_LABELS), predictions(O, FULL_LABELS))
    assert ours.abs().max() < 1e-5
    assert float(muse(shifted, O)) < -1.0
    # On log-probabilities their call is the KL itself, but "batchmean" then divides by samples, not by tokens.
    right = muse(F.log_softmax(U[:, :-1], -1), F.log_softmax(O[:, :-1], -1)) / (FULL_LABELS.shape[1] - 1)
    torch.testing.assert_close(forward_kl(predictions(U, FULL_LABELS), predictions(O, FULL_LABELS)).mean(), right)
