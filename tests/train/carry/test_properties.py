"""What must hold of carrying under every scheme that it knows: its expectation, its ends, zeros, and coming back.

A matrix of equal rows is carried once: each row is another draw of the same weights, so its mean over the rows is that
of so many seeds, and its spread is known from the two levels around each target.
"""

from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_quant, quantize_4bit
from scipy.stats import chi2

from quail_audit.engine.schemes.interface import Quantized
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.carry.compensation import compensate, output_error
from quail_train.carry.data_free import DataFreeWay, carry_matrix, key_of
from quail_train.carry.grid import fixed_grid, spread_blocks

SCHEMES = (
    *("nf4", "fp4", "nf4-dq", "fp4-dq", "int8", "rtn-int2-g32", "rtn-int3-g64", "rtn-int4-g64", "rtn-int4-g128-asym"),
    *("rtn-int4-channel", "rtn-int8-g32", "gguf-q4_0", "gguf-q4_1", "gguf-q5_0", "gguf-q5_1", "gguf-q8_0"),
)
COLUMNS = 256
DRAWS = 400
UNLIKELY = 1e-6  # of a right carry, for each scheme; the draws are the same every time
WAYS: tuple[DataFreeWay, ...] = ("random", "feedback")


def patterns() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a pair: updates of a hundredth to a few bucket widths, from zeros, and far beyond the ends of a grid."""
    generator = torch.Generator().manual_seed(7)
    original = 0.05 * torch.randn(4, COLUMNS, generator=generator)
    original[2] = 0.0
    size = torch.logspace(-4, -1, COLUMNS)
    update = size * torch.randn(4, COLUMNS, generator=generator)
    update[1] *= 0.01
    update[3] = 0.1 * original[3].sign()  # away from zero, so that some reach beyond what sets the unlearned's scale
    update[3, ::3] *= -3.0
    return original, original + update


def levels_of(stored: Quantized, scheme: Any, weight: torch.Tensor) -> torch.Tensor:
    """The values that each place can be given, in order, none beyond its block's ends: [levels, rows, columns]."""
    # torchao's lowest level lies half a step beyond every weight: what is written there would be deployed as another
    first = int(scheme.name.startswith("rtn-int") and not scheme.name.endswith("-asym"))
    values = []
    for code in range(first, 16 if hasattr(scheme, "grid") else scheme.levels):
        codes = torch.full_like(stored.codes, code)
        values.append(scheme.dequantize(type(stored)(codes, stored.scales, stored.dtype, stored.zeros, stored.bases)))
    grid = fixed_grid(weight, scheme)
    low, high = (spread_blocks(torch.from_numpy(grid.blocks[:, end]), weight.shape, grid.block_size) for end in (3, 4))
    return torch.minimum(torch.maximum(torch.stack(values), low), high).sort(dim=0).values


def mean_is_the_target(name: str, draws: int) -> None:
    scheme = scheme_named(name)
    original, unlearned = patterns()
    target = scheme.dequantize(scheme.quantize(original)) + (unlearned - original)
    table = levels_of(scheme.quantize(unlearned), scheme, unlearned).double()
    wide = target.double()
    reached = torch.minimum(torch.maximum(wide, table[0]), table[-1])
    below = torch.where(table <= reached, table, -torch.inf).amax(dim=0)
    above = torch.where(table >= reached, table, torch.inf).amin(dim=0)
    spread = ((reached - below) * (above - reached)).clamp(min=0).sqrt()

    many = [side.repeat(draws, 1) for side in (original, unlearned)]
    found = carry_matrix(*many, scheme, way="random", key=key_of(0, name))
    drawn = found.weight.reshape(draws, *original.shape).double()
    # what sets a scale; of scales that are rounded themselves, also blocks that come back in no way
    held = (drawn == unlearned).all(dim=0)
    assert held.float().mean() < 0.2
    assert found.mended_blocks == 0 or name.endswith("-dq")
    mean = drawn.mean(dim=0)
    free = ~held & (spread > 1e-3 * (above - below))
    assert free.float().mean() > 0.5, "most places have two levels to go to"
    z = ((mean - reached) / (spread / draws**0.5))[free]
    assert float((z**2).sum()) < chi2.isf(UNLIKELY, int(free.sum()))
    at_a_level = ~held & ~free
    steps = (table[-1] - table[0]) / len(table)
    off = ((mean - reached).abs() / steps)[at_a_level]
    assert (off < 0.01).all(), "the level that the target lies on, or the grid's end"


@pytest.mark.parametrize("name", SCHEMES)
def test_the_mean_over_many_draws_is_the_update(name: str) -> None:
    mean_is_the_target(name, DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMES)
def test_the_mean_over_very_many_draws_is_the_update(name: str) -> None:
    mean_is_the_target(name, 30 * DRAWS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_row_of_zeros_stays_whatever_the_original_was(name: str, way: DataFreeWay) -> None:
    scheme = scheme_named(name)
    original, unlearned = patterns()
    unlearned[0] = 0.0
    found = carry_matrix(original, unlearned, scheme, way=way, key=1).weight
    assert torch.equal(found[0], unlearned[0])


def hessian_of(columns: int, samples: int, seed: int) -> torch.Tensor:
    """Of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns) + 0.5 * torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(samples, columns, generator=generator) @ mixing
    return inputs.T @ inputs


def calibrated_is_no_worse_and_comes_back(name: str, dtype: torch.dtype, samples: int, seed: int) -> None:
    scheme = scheme_named(name)
    generator = torch.Generator().manual_seed(seed)
    weight = (0.05 * torch.randn(8, COLUMNS, generator=generator)).to(dtype)
    hessian = hessian_of(COLUMNS, samples, seed)
    found = compensate(fixed_grid(weight, scheme), hessian)
    nearest = scheme.dequantize(scheme.quantize(weight))
    assert output_error(found.weight, weight, hessian) <= output_error(nearest, weight, hessian)
    again, grid = scheme.quantize(found.weight), fixed_grid(weight, scheme)
    assert torch.equal(again.scales, grid.nearest.scales)
    assert found.moved == int((again.codes != grid.nearest.codes).sum())
    # fp4 has two zeros, of which only one comes back
    is_whole = dtype == torch.float32 and samples > 0 and not name.endswith("-dq")
    assert found.mended_blocks == 0 or not is_whole
    if found.mended_blocks == 0:
        low, high = (
            spread_blocks(torch.from_numpy(grid.blocks[:, end]), weight.shape, grid.block_size) for end in (3, 4)
        )
        inside = (found.weight > low) & (found.weight < high)  # an end sets its block's scale, on its grid or not
        assert torch.equal(scheme.dequantize(again).to(dtype)[inside], found.weight[inside])
        twice = compensate(fixed_grid(found.weight, scheme), hessian)
        assert torch.equal(twice.weight, found.weight)


@pytest.mark.parametrize("name", SCHEMES)
def test_calibrated_rounding_is_no_worse_than_nearest_and_a_second_time_changes_nothing(name: str) -> None:
    calibrated_is_no_worse_and_comes_back(name, torch.float32, 300, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("samples", [0, 3, 100, 2000])
@pytest.mark.parametrize("name", SCHEMES)
def test_calibrated_rounding_of_every_type_on_few_and_many_inputs(name: str, samples: int, dtype: torch.dtype) -> None:
    for seed in range(3):
        calibrated_is_no_worse_and_comes_back(name, dtype, samples, seed)


def results(name: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """One matrix carried in every way."""
    original, unlearned = (side.to(dtype) for side in patterns())
    scheme = scheme_named(name)
    found = [carry_matrix(original, unlearned, scheme, way=way, key=3).weight for way in WAYS]
    return [*found, compensate(fixed_grid(unlearned, scheme), hessian_of(COLUMNS, 300, 1)).weight]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_rounds_every_output_to_itself(name: Any, dtype: torch.dtype) -> None:
    for weight in results(name, dtype):
        packed, state = quantize_4bit(weight, blocksize=64, quant_type=name)
        assert torch.equal(dequantize_4bit(packed, state), weight)


def test_bitsandbytes_int8_gives_the_chosen_codes() -> None:
    """By the vectors that LLM.int8() stores: code * absolute maximum of the row / 127."""
    scheme = scheme_named("int8")
    for weight in results("int8", torch.float16):
        codes, scales, _ = int8_vectorwise_quant(weight)
        stored = scheme.quantize(weight)
        assert torch.equal(codes.int(), stored.codes.int() + scheme.lowest)
        assert torch.equal(scales, stored.scales)
