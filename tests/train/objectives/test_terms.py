"""Each term against a slow plain loop, against finite differences, and blind to padding and ignored labels."""

import math
from collections.abc import Callable

import pytest
import torch

from quail_train.objectives.terms import (
    IGNORED,
    Predictions,
    forward_kl,
    gradient_ascent,
    l1_of_update,
    nll,
    npo,
    predictions,
    simnpo,
)

VOCABULARY = 7
LABELS = torch.tensor([[3, 1, 4, 1, 5], [IGNORED, IGNORED, 2, 6, IGNORED], [IGNORED] * 5])  # the last does not count


def logits(seed: int) -> torch.Tensor:
    return torch.randn(3, 5, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def log_softmax(row: list[float]) -> list[float]:
    largest = max(row)
    total = math.log(sum(math.exp(value - largest) for value in row)) + largest
    return [value - total for value in row]


def plain_tokens(found: torch.Tensor) -> list[tuple[int, int, list[float]]]:
    """(sample, token, log-probabilities that predicted it), token by token, as written in any textbook."""
    return [
        (row, int(LABELS[row, place]), log_softmax(found[row, place - 1].tolist()))
        for row in range(LABELS.shape[0])
        for place in range(1, LABELS.shape[1])
        if LABELS[row, place] != IGNORED
    ]


def plain_nll(found: torch.Tensor) -> list[float]:
    return [-probabilities[token] for _, token, probabilities in plain_tokens(found)]


def plain_sums(found: torch.Tensor) -> dict[int, list[float]]:
    samples: dict[int, list[float]] = {}
    for row, token, probabilities in plain_tokens(found):
        samples.setdefault(row, []).append(probabilities[token])
    return samples


def plain_npo(found: torch.Tensor, original: torch.Tensor, beta: float) -> list[float]:
    ours, theirs = plain_sums(found), plain_sums(original)
    ratios = [sum(ours[row]) - sum(theirs[row]) for row in ours]
    return [2 / beta * math.log(1 + math.exp(beta * ratio)) for ratio in ratios]


def plain_simnpo(found: torch.Tensor, beta: float) -> list[float]:
    means = [sum(values) / len(values) for values in plain_sums(found).values()]
    return [2 / beta * math.log(1 + math.exp(beta * mean)) for mean in means]


def plain_kl(found: torch.Tensor, original: torch.Tensor) -> list[float]:
    pairs = zip(plain_tokens(found), plain_tokens(original), strict=True)
    return [sum(math.exp(q) * (q - p) for p, q in zip(ours, theirs, strict=True)) for (*_, ours), (*_, theirs) in pairs]


TERMS: dict[str, tuple[Callable[[Predictions, Predictions], torch.Tensor], Callable[..., list[float]]]] = {
    "nll": (lambda u, o: nll(u), lambda u, o: plain_nll(u)),
    "ga": (lambda u, o: gradient_ascent(u), lambda u, o: [-value for value in plain_nll(u)]),
    "ga, capped": (lambda u, o: gradient_ascent(u, 2.0), lambda u, o: [-min(2.0, value) for value in plain_nll(u)]),
    "npo": (lambda u, o: npo(u, o, 0.1), lambda u, o: plain_npo(u, o, 0.1)),
    "simnpo": (lambda u, o: simnpo(u, 2.5), lambda u, o: plain_simnpo(u, 2.5)),
    "kl": (forward_kl, plain_kl),
}


@pytest.mark.parametrize("name", TERMS)
def test_equals_the_plain_reference(name: str) -> None:
    term, plain = TERMS[name]
    unlearned, original = logits(0), logits(1)
    found = term(predictions(unlearned, LABELS), predictions(original, LABELS))
    assert found.tolist() == pytest.approx(plain(unlearned, original), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    term, plain = TERMS[name]
    unlearned, original = logits(2).requires_grad_(True), logits(3)
    values = term(predictions(unlearned, LABELS), predictions(original, LABELS))
    (gradient,) = torch.autograd.grad(values.mean(), unlearned)
    step = 1e-4
    for place in ((0, 0, 1), (0, 3, 5), (1, 1, 2), (1, 2, 0), (1, 4, 3), (2, 2, 2)):
        sides = []
        for sign in (1, -1):
            moved = unlearned.detach().double().clone()
            moved[place] += sign * step
            worked = plain(moved, original.double())
            sides.append(sum(worked) / len(worked))
        assert float(gradient[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_padding_changes_nothing(name: str) -> None:
    term, _ = TERMS[name]
    unlearned, original = logits(4), logits(5)
    padded_labels = torch.nn.functional.pad(LABELS, (0, 3), value=IGNORED)

    def padded(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, 0, 0, 3), value=1e4)

    plain = term(predictions(unlearned, LABELS), predictions(original, LABELS))
    with_padding = term(predictions(padded(unlearned), padded_labels), predictions(padded(original), padded_labels))
    assert torch.equal(plain, with_padding)


def test_the_cap_leaves_unlikely_tokens_alone() -> None:
    found = torch.zeros(1, 3, VOCABULARY, requires_grad=True)
    with torch.no_grad():
        found[0, 0, 1] = 10.0  # the token that comes: a loss near 0
        found[0, 1, 1] = -10.0  # a loss far above the cap
    gradient_ascent(predictions(found, torch.tensor([[0, 1, 1]])), 5.0).sum().backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert found.grad[0, 0].abs().sum() > 0
    assert found.grad[0, 1].abs().sum() == 0


def test_npo_at_the_original_is_its_known_value_and_ascends() -> None:
    """At the original the ratio is 1, so the loss is 2/beta log 2 and its gradient is gradient ascent's on the sums."""
    at = logits(6).requires_grad_(True)
    found = predictions(at, LABELS)
    values = npo(found, predictions(at.detach(), LABELS), 0.1)
    assert values.tolist() == pytest.approx([20 * math.log(2)] * 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(values.sum(), at)
    (ascent,) = torch.autograd.grad(-nll(predictions(at, LABELS)).sum(), at)
    torch.testing.assert_close(gradient, ascent, rtol=1e-4, atol=1e-6)


def test_forward_kl_is_zero_only_where_nothing_differs() -> None:
    same = predictions(logits(7), LABELS)
    assert forward_kl(same, same).abs().max() < 1e-6
    assert (forward_kl(predictions(logits(8), LABELS), same) > 1e-3).all()


def test_half_precision_logits_are_taken_up_to_float32() -> None:
    found = predictions(logits(9).bfloat16(), LABELS)
    assert found.logits.dtype == torch.float32


def test_l1_is_the_sum_over_all_trained_weights() -> None:
    originals = {"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([[0.5]])}
    weights = {"a": torch.tensor([[1.5, -2.0]], requires_grad=True), "b": torch.tensor([[-0.5]], requires_grad=True)}
    found = l1_of_update(weights, originals)
    assert float(found.detach()) == 1.5
    found.backward()  # type: ignore[no-untyped-call]
    assert weights["a"].grad is not None
    assert weights["a"].grad.tolist() == [[1.0, 0.0]]
    assert weights["b"].grad is not None
    assert weights["b"].grad.tolist() == [[-1.0]]
