"""Error compensation against the definition it comes from: one column after another, with explicit inverses."""

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from hypothesis import given, settings
from hypothesis import strategies as st

from quail_audit.engine.schemes.registry import scheme_named
from quail_train.carry.compensation import DAMPING, compensate, output_error
from quail_train.carry.grid import fixed_grid

NF4 = scheme_named("nf4")


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(seed: int, rows: int, columns: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix and the Hessian of correlated inputs."""
    inputs = random(seed, samples, columns) @ (
        torch.eye(columns) + 0.5 * random(seed + 1, columns, columns) / columns**0.5
    )
    return 0.05 * random(seed + 2, rows, columns), inputs.T @ inputs


def plainly(weight: torch.Tensor, hessian: torch.Tensor) -> np.ndarray:
    """Optimal brain quantization in the order of the columns (Frantar et al., arXiv 2208.11580, equations 2 and 3)."""
    left = weight.double().numpy().copy()
    scales = weight.reshape(-1, 64).abs().amax(dim=1).double().numpy().repeat(64).reshape(weight.shape)
    held = weight.abs().double().numpy() == scales
    damped = hessian.double().numpy() + DAMPING * float(hessian.diagonal().mean()) * np.eye(len(hessian))
    inverse = np.linalg.inv(damped)
    levels = NF4.grid.levels.astype(np.float64)
    result = np.empty_like(left)
    for column in range(left.shape[1]):
        distance = np.abs(left[:, column, None] / scales[:, column, None] - levels)
        result[:, column] = levels[distance.argmin(axis=1)] * scales[:, column]
        result[:, column] = np.where(held[:, column], weight[:, column].double().numpy(), result[:, column])
        error = (left[:, column] - result[:, column]) / inverse[column, column]
        left -= np.outer(error, inverse[column])
        inverse = inverse - np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column], inverse[:, column] = 0.0, 0.0
    return result


@pytest.mark.parametrize(("rows", "columns"), [(8, 64), (24, 192)])
def test_against_explicit_inverses(rows: int, columns: int) -> None:
    """More columns than are done at once, so that the lazy update is in it."""
    weight, hessian = layer(0, rows, columns, 300)
    found = compensate(fixed_grid(weight, NF4), hessian)
    expected = plainly(weight, hessian)
    differing = np.abs(found.weight.double().numpy() - expected) > 1e-6
    # once a weight near the middle of two levels falls the other way in float32, those after it may follow
    assert differing.mean() < 0.01
    assert found.mended_blocks == 0


def test_it_lowers_the_output_error_it_says() -> None:
    weight, hessian = layer(3, 32, 128, 500)
    found = compensate(fixed_grid(weight, NF4), hessian)
    nearest = NF4.dequantize(NF4.quantize(weight))
    errors = [
        float(((side - weight).double() @ hessian.double() * (side - weight)).sum()) for side in (found.weight, nearest)
    ]
    assert found.output_error == pytest.approx(errors[0] / errors[1], rel=1e-3)
    assert errors[0] < 0.8 * errors[1]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**20),
    rows=st.integers(1, 6),
    columns=st.sampled_from([64, 96, 130]),
    samples=st.integers(0, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_never_worse_than_nearest_rounding_and_back_on_its_grid(
    seed: int, rows: int, columns: int, samples: int, dtype: torch.dtype
) -> None:
    """Also with fewer inputs than columns, with none at all, and with columns that never see anything."""
    weight, hessian = layer(seed, rows, columns, samples)
    weight = weight.to(dtype)
    hessian[:, ::5], hessian[::5] = 0.0, 0.0
    found = compensate(fixed_grid(weight, NF4), hessian)
    nearest = NF4.dequantize(NF4.quantize(weight))
    assert output_error(found.weight, weight, hessian) <= output_error(nearest, weight, hessian)
    again = NF4.quantize(found.weight)
    assert torch.equal(NF4.dequantize(again), found.weight)
    assert torch.equal(again.scales, NF4.quantize(weight).scales)


def test_bitsandbytes_gives_every_code_back_and_a_second_time_changes_nothing() -> None:
    weight, hessian = layer(5, 16, 192, 400)
    found = compensate(fixed_grid(weight, NF4), hessian)
    packed, state = quantize_4bit(found.weight, blocksize=64, quant_type="nf4")
    assert torch.equal(dequantize_4bit(packed, state), found.weight)
    assert found.moved > 100
    again = compensate(fixed_grid(found.weight, NF4), hessian)
    assert torch.equal(again.weight, found.weight)
    assert again.moved == 0
