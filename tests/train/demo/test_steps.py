"""The noise under which a demo's layers learn, against a gradient worked by hand."""

import pytest
import torch

from quail_train.demo.steps import Shaken


def shaken(weight: torch.Tensor, strength: float, seed: int = 0) -> Shaken:
    return Shaken([weight], strength, torch.Generator().manual_seed(seed))


def test_the_gradient_is_that_of_the_shaken_weights_which_come_back_to_the_last_bit() -> None:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 400).reshape(20, 20) ** 3)
    before = weight.detach().clone()
    with shaken(weight, 0.5).shake():
        seen = weight.detach().clone()
        (weight.square().sum() / 2).backward()  # its gradient is the weight itself
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, seen, rtol=0, atol=0)
    assert torch.equal(weight.detach(), before)


def test_the_noise_has_its_part_of_the_spread_of_the_weights() -> None:
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(1)) * 7
    before = weight.clone()
    with shaken(weight, 0.12).shake():
        noise = weight - before
    assert float(noise.std()) == pytest.approx(0.12 * 7, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)


def test_the_noise_is_drawn_anew_each_step_and_the_same_for_a_seed() -> None:
    weight, drawn = torch.linspace(-1, 1, 64).reshape(8, 8), []
    for seed in (0, 0, 1):
        shaking = shaken(weight, 0.1, seed)
        for _ in range(2):
            with shaking.shake():
                drawn.append(weight.clone())
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[4])
