"""Every form of the hinge against a slow plain loop and finite differences."""

import math
from typing import get_args

import pytest
import torch

from quail_audit.schema.requests import HingeForm
from quail_train.objectives.hinge import hinge
from quail_train.objectives.terms import IGNORED, predictions

FORMS: tuple[HingeForm, ...] = get_args(HingeForm)
MARGIN = 1.5
LABELS = torch.tensor([[3, 1, 4, 1], [IGNORED, IGNORED, 2, IGNORED]])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed)).double()


def distances(form: HingeForm, u: list[float], o: list[float], token: int) -> list[float]:
    shift = [a - b for a, b in zip(u, o, strict=True)]
    match form:
        case "per-logit":
            return [abs(d) for d in shift]
        case "centred":
            mean = sum(shift) / len(shift)
            return [abs(d - mean) for d in shift]
        case "log-probability":
            lse_u, lse_o = (math.log(sum(map(math.exp, side))) for side in (u, o))
            return [abs(a - lse_u - b + lse_o) for a, b in zip(u, o, strict=True)]
        case "l1":
            return [sum(abs(d) for d in shift)]
        case "l2":
            return [math.sqrt(sum(d * d for d in shift))]
        case "true-token":
            return [o[token] - u[token]]


def plain(form: HingeForm, u: torch.Tensor, o: torch.Tensor, margin: float) -> tuple[list[float], list[float]]:
    values, satisfied = [], []
    for row in range(LABELS.shape[0]):
        for place in range(1, LABELS.shape[1]):
            token = int(LABELS[row, place])
            if token == IGNORED:
                continue
            found = distances(form, u[row, place - 1].tolist(), o[row, place - 1].tolist(), token)
            values.append(sum(max(0.0, margin - d) for d in found) / len(found))
            satisfied.append(sum(d >= margin for d in found) / len(found))
    return values, satisfied


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_plain_reference(form: HingeForm) -> None:
    u, o = logits(0), logits(1)
    found = hinge(form, predictions(u, LABELS), predictions(o, LABELS), MARGIN)
    values, satisfied = plain(form, u, o, MARGIN)
    assert found.values.tolist() == pytest.approx(values, rel=1e-5)
    assert found.satisfied.tolist() == pytest.approx(satisfied)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form: HingeForm) -> None:
    u, o = logits(2).requires_grad_(True), logits(3)
    margin = 8.0  # so that the sums over the vocabulary are under it too
    values = hinge(form, predictions(u, LABELS), predictions(o, LABELS), margin).values
    (gradient,) = torch.autograd.grad(values.mean(), u)
    assert gradient.abs().sum() > 0
    step = 1e-5
    for place in ((0, 0, 1), (0, 1, 4), (0, 2, 1), (1, 1, 2), (1, 1, 5), (1, 2, 0)):
        sides = []
        for sign in (1, -1):
            moved = u.detach().clone()
            moved[place] += sign * step
            worked, _ = plain(form, moved, o, margin)
            sides.append(sum(worked) / len(worked))
        assert float(gradient[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_beyond_the_margin_nothing_is_asked(form: HingeForm) -> None:
    o = logits(4)
    u = o.clone()
    u += torch.tensor([100.0, -30.0, -40.0, -50.0, -60.0, -70.0])
    if form == "true-token":
        u = o - 40.0
    u.requires_grad_(True)
    found = hinge(form, predictions(u, LABELS), predictions(o, LABELS), 0.05)
    assert found.values.abs().sum() == 0
    assert (found.satisfied == 1).all()
    (gradient,) = torch.autograd.grad(found.values.sum(), u)
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("form", FORMS)
def test_at_the_original_itself_it_is_finite(form: HingeForm) -> None:
    o = logits(5)
    u = o.clone().requires_grad_(True)
    found = hinge(form, predictions(u, LABELS), predictions(o, LABELS), MARGIN)
    assert found.values.tolist() == pytest.approx([MARGIN] * 4)
    (gradient,) = torch.autograd.grad(found.values.sum(), u)
    assert torch.isfinite(gradient).all()


def test_a_shift_of_all_logits_satisfies_only_the_paper_s_form_and_the_sums() -> None:
    """It changes no prediction, so the forms that look at predictions must not be taken in by it."""
    o = logits(6)
    shifted = o - 3.0
    share = {
        form: float(hinge(form, predictions(shifted, LABELS), predictions(o, LABELS), MARGIN).satisfied.mean())
        for form in FORMS
    }
    assert share == {
        "per-logit": 1.0,
        "centred": 0.0,
        "log-probability": 0.0,
        "l1": 1.0,
        "l2": 1.0,
        "true-token": 1.0,
    }
