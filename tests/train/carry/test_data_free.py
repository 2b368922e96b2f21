"""Carrying an update without data: against a plain loop, by its expectation, and rounded by bitsandbytes itself."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_train.carry.data_free import carry_matrix, key_of
from quail_train.carry.grid import deployed_update, fixed_grid, mend_blocks
from quail_train.carry.kernels import splitmix64
from quail_train.demo.confinement import bucket_of

Way = Literal["random", "feedback"]
WAYS: tuple[Way, ...] = ("random", "feedback")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def matrix(seed: int, rows: int, columns: int, scale: float) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale


def confined_pair(seed: int, rows: int, columns: int, name: str = "nf4") -> tuple[torch.Tensor, torch.Tensor]:
    """A pair whose update is erased: every weight in its own bucket, every scale as it was."""
    original = matrix(seed, rows, columns, 0.05)
    unlearned = original + matrix(seed + 1, rows, columns, 0.01)
    bucket_of(original, scheme_named(name)).confine(unlearned)
    return original, unlearned


def plainly_carried(original: torch.Tensor, unlearned: torch.Tensor, name: str, way: Way, key: int) -> torch.Tensor:
    """The definition, weight by weight, in Python."""
    grid = scheme_named(name).grid
    levels = sorted(set(grid.levels.tolist()))
    rounded = scheme_named(name).dequantize(scheme_named(name).quantize(original.float()))
    rows, columns = original.shape
    blocks = unlearned.float().reshape(-1).split(grid.block_size)
    result = unlearned.float().clone()
    for row in range(rows):
        error = np.float32(0.0)
        for column in range(columns):
            place = row * columns + column
            scale = blocks[place // grid.block_size].abs().max().numpy()
            u, o = unlearned[row, column].float().numpy(), original[row, column].float().numpy()
            target = rounded[row, column].numpy() + (u - o)
            places = [np.float32(level) * scale for level in levels]
            if way == "feedback":
                target = target + error
            value = u
            if abs(u) < scale:
                below = max((p for p in places[:-1] if p <= target), default=places[0])
                above = places[places.index(below) + 1]
                if way == "random":
                    draw = int(splitmix64(np.uint64(key), place)) / 2**64
                    value = above if draw * float(above - below) < float(target - below) else below
                else:
                    value = above if float(target) - float(below) > float(above) - float(target) else below
            result[row, column] = float(value)
            error = target - value
    return result.to(unlearned.dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(18, 96), (5, 50)])
def test_against_a_plain_loop(way: Way, name: str, shape: tuple[int, int]) -> None:
    """Blocks that end inside a row, a last short block, more rows than are worked on side by side."""
    original = matrix(0, *shape, 0.05)
    unlearned = original + matrix(1, *shape, 0.02)
    found = carry_matrix(original, unlearned, scheme_named(name), way=way, key=5)
    assert found.mended_blocks == 0
    expected = plainly_carried(original, unlearned, name, way, 5)
    assert (found.weight != expected).sum() <= expected.numel() // 1000, "a tie in the last bit may go either way"


def test_the_draws_are_splitmix64() -> None:
    """The first values of the generator's public test vector, for the seed 1234567."""
    drawn = [int(splitmix64(np.uint64(1234567), place)) for place in range(3)]
    assert drawn == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("name", ["nf4", "fp4"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9, 3.0])
def test_the_expected_change_is_the_update(name: str, share: float) -> None:
    """From every level of the grid, by updates of some and of several bucket widths, over many seeds.

    Where the target lies beyond the grid's ends, the outermost level is all there is.
    """
    scheme = scheme_named(name)
    levels = np.unique(scheme.grid.levels)
    original = torch.from_numpy(np.repeat(levels, 40).astype(np.float32)).reshape(-1, 20)
    widths = float(np.diff(levels).mean())
    update = matrix(3, *original.shape, share * widths).clamp(-0.6, 0.6)
    unlearned = (original + update).clamp(-0.99, 0.99)
    original, unlearned = (
        torch.cat([side.reshape(-1), torch.zeros(-side.numel() % 63)]) for side in (original, unlearned)
    )
    ones = torch.ones(original.numel() // 63, 1)  # the weight that sets each block's scale
    original, unlearned = (torch.cat([ones, side.reshape(-1, 63)], dim=1) for side in (original, unlearned))
    rounded = scheme.dequantize(scheme.quantize(original))
    target = (rounded + unlearned - original).clamp(-1.0, 1.0)
    seeds = 200
    total = torch.zeros_like(original, dtype=torch.float64)
    squared = torch.zeros_like(total)
    for seed in range(seeds):
        drawn = carry_matrix(original, unlearned, scheme, way="random", key=key_of(seed, "layer")).weight.double()
        total += drawn
        squared += drawn**2
    mean = total / seeds
    deviation = (squared / seeds - mean**2).clamp(min=0).sqrt() / seeds**0.5
    off = (mean - target).abs()
    assert (off <= 5 * deviation + 0.02).all()
    assert float((mean - target).mean()) == pytest.approx(0.0, abs=4 * float(deviation.pow(2).mean().sqrt()) / 20)


@pytest.mark.parametrize("way", WAYS)
def test_a_confined_update_moves_codes_in_its_direction_and_no_further_than_it_reaches(way: Way) -> None:
    original, unlearned = confined_pair(0, 32, 256)
    scheme = scheme_named("nf4")
    before = scheme.quantize(original).codes.int()
    assert torch.equal(before, scheme.quantize(unlearned).codes.int())
    drawn = carry_matrix(original, unlearned, scheme, way="random", key=1).weight
    moved = scheme.quantize(drawn).codes.int() - before
    assert (moved * (unlearned - original).sign() >= 0).all()
    levels, scales = torch.from_numpy(scheme.grid.levels), original.reshape(-1, 64).abs().amax(dim=1, keepdim=True)
    next_code = (before + (unlearned - original).sign().int()).clamp(0, 15)
    distance = (levels[next_code] - levels[before]).abs().reshape(-1, 64) * scales
    within = (unlearned - original).abs().reshape(-1, 64) <= distance * 0.999
    assert within.float().mean() > 0.8, "in a wide bucket an update may reach beyond a near level"
    assert (moved.reshape(-1, 64)[within].abs() <= 1).all()
    found = carry_matrix(original, unlearned, scheme, way=way, key=1)
    assert pair_sums(original, unlearned, scheme).survival == 0.0
    survival, noise = deployed_update(original, unlearned, found.weight, scheme)
    assert survival is not None
    assert noise is not None
    assert survival == pytest.approx(0.95, abs=0.12)
    rounded = scheme.dequantize(scheme.quantize(original))
    plain = ((found.weight - rounded).double() * (unlearned - original).double()).sum()
    assert survival == pytest.approx(float(plain / ((unlearned - original).double() ** 2).sum()), rel=1e-4)


def test_feedback_adds_up_along_rows() -> None:
    original, unlearned = confined_pair(2, 24, 512)
    scheme = scheme_named("nf4")
    rounded = scheme.dequantize(scheme.quantize(original))
    found = carry_matrix(original, unlearned, scheme, way="feedback", key=0).weight
    short = (found - rounded - (unlearned - original)).sum(dim=1).abs()
    widest = float(np.diff(scheme.grid.levels).max()) * unlearned.abs().max()
    assert (short <= widest).all(), "what is left over is under one step"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_gives_every_code_back(way: Way, dtype: torch.dtype, name: Any) -> None:
    """Its own quantizer on the result dequantizes to the result, with the scales of the unlearned, bitwise."""
    original, unlearned = (side.to(dtype) for side in confined_pair(4, 24, 192, name))
    found = carry_matrix(original, unlearned, scheme_named(name), way=way, key=2)
    assert found.mended_blocks == 0
    assert found.moved > 0
    packed, state = quantize_4bit(found.weight, blocksize=64, quant_type=name)
    _, scales = quantize_4bit(unlearned, blocksize=64, quant_type=name)
    assert torch.equal(state.absmax, scales.absmax)
    assert torch.equal(dequantize_4bit(packed, state), found.weight)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["nf4", "fp4", "nf4-dq", "fp4-dq"])
def test_carrying_twice_changes_nothing(way: Way, name: str) -> None:
    original = matrix(6, 24, 160, 0.05)
    unlearned = original + matrix(7, 24, 160, 0.004)
    once = carry_matrix(original, unlearned, scheme_named(name), way=way, key=3).weight
    assert not torch.equal(once, unlearned)
    twice = carry_matrix(original, once, scheme_named(name), way=way, key=4)
    assert torch.equal(twice.weight, once)
    assert twice.moved == 0


@pytest.mark.parametrize("way", WAYS)
def test_the_number_of_threads_has_no_say(way: Way) -> None:
    original = matrix(8, 512, 512, 0.05)
    unlearned = original + matrix(9, 512, 512, 0.004)
    one, three = (
        carry_matrix(original, unlearned, scheme_named("nf4"), way=way, key=3, threads=threads).weight
        for threads in (1, 3)
    )
    assert torch.equal(one, three)
    other = carry_matrix(original, unlearned, scheme_named("nf4"), way=way, key=4).weight
    assert torch.equal(one, other) == (way == "feedback")


@pytest.mark.parametrize("way", WAYS)
def test_blocks_of_zeros_stay_zeros(way: Way) -> None:
    original, unlearned = matrix(1, 4, 128, 0.05), matrix(2, 4, 128, 0.05)
    unlearned[1] = 0.0
    found = carry_matrix(original, unlearned, scheme_named("nf4"), way=way, key=0)
    assert torch.equal(found.weight[1], unlearned[1])
    assert found.mended_blocks == 0


@given(
    seed=st.integers(0, 2**20), exponent=st.floats(-30, 30), way=st.sampled_from(WAYS), dtype=st.sampled_from(DTYPES)
)
def test_whatever_the_magnitude_it_rounds_to_itself(seed: int, exponent: float, way: Way, dtype: torch.dtype) -> None:
    original = matrix(seed, 2, 96, 10.0**exponent).to(dtype)
    unlearned = (original.float() + matrix(seed + 1, 2, 96, 0.2 * 10.0**exponent)).to(dtype)
    if not (original.isfinite().all() and unlearned.isfinite().all()):
        return
    scheme = scheme_named("nf4")
    found = carry_matrix(original, unlearned, scheme, way=way, key=seed)
    again = scheme.quantize(found.weight)
    assert torch.equal(again.scales, scheme.quantize(unlearned).scales)
    if found.mended_blocks == 0:
        assert torch.equal(scheme.dequantize(again), found.weight)


def test_a_block_that_does_not_come_back_is_mended() -> None:
    """Values between levels are written on purpose: they round to others than were chosen."""
    unlearned = matrix(3, 2, 128, 0.05)
    scheme = scheme_named("nf4")
    grid = fixed_grid(unlearned, scheme)
    nearest = scheme.dequantize(scheme.quantize(unlearned))
    values, chosen = nearest.numpy().copy(), np.zeros((2, 128), np.int16)
    level = np.searchsorted(grid.levels, scheme.grid.levels[scheme.quantize(unlearned).codes.numpy()])
    chosen[:] = level
    chosen[0, 5] = (chosen[0, 5] + 3) % 16  # its value stays that of another code
    found = mend_blocks(grid, values, chosen)
    assert (found.mended_blocks, found.blocks) == (1, 4)
    assert torch.equal(found.weight, nearest)
    assert found.moved == 0


AFFINE = (
    "int8",
    "rtn-int2-g32",
    "rtn-int3-g64",
    "rtn-int4-g64",
    "rtn-int4-g128-asym",
    "rtn-int4-channel",
    "gguf-q4_0",
    "gguf-q4_1",
    "gguf-q5_0",
    "gguf-q8_0",
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", AFFINE)
def test_even_grids_come_back_and_a_second_time_changes_nothing(way: Way, dtype: torch.dtype, name: str) -> None:
    """Codes from zero, from a half and with offsets, scales of either sign, groups and rows."""
    scheme = scheme_named(name)
    original = matrix(1, 24, 256, 0.05).to(dtype)
    unlearned = (original.float() + matrix(2, 24, 256, 0.005)).to(dtype)
    found = carry_matrix(original, unlearned, scheme, way=way, key=3)
    assert found.mended_blocks <= found.blocks // 20
    before, after = scheme.quantize(unlearned), scheme.quantize(found.weight)
    assert torch.equal(before.scales, after.scales)
    assert found.moved == int((before.codes != after.codes).sum()) > 0
    survival, _ = deployed_update(original, unlearned, found.weight, scheme)
    # of int2's four levels one lies beyond every weight, so that the others reach two thirds of the way
    # and feedback is unbiased along rows only
    assert survival == pytest.approx(1.0, abs=0.1 if scheme.levels > 4 and way == "random" else 0.25)
    again = carry_matrix(original, found.weight, scheme, way=way, key=3)
    assert torch.equal(again.weight, found.weight)


@pytest.mark.parametrize("name", AFFINE)
def test_even_grids_give_one_of_the_two_levels_around_the_target(name: str) -> None:
    """All values that a place can have are read off the scheme's own dequantizer, code by code."""
    scheme = scheme_named(name)
    original = matrix(5, 6, 128, 0.05)
    unlearned = original + matrix(6, 6, 128, 0.005)
    found = carry_matrix(original, unlearned, scheme, way="random", key=4).weight
    target = scheme.dequantize(scheme.quantize(original)) + (unlearned - original)
    stored = scheme.quantize(unlearned)
    places = []
    for code in range(scheme.levels):
        codes = torch.full_like(stored.codes, code)
        places.append(scheme.dequantize(type(stored)(codes, stored.scales, stored.dtype, stored.zeros, stored.bases)))
    table = torch.stack(places).sort(dim=0).values
    own = found == unlearned
    below = torch.where(table <= target, table, -torch.inf).amax(dim=0)
    above = torch.where(table >= target, table, torch.inf).amin(dim=0)
    near = torch.isclose(found, below, rtol=1e-5, atol=1e-8) | torch.isclose(found, above, rtol=1e-5, atol=1e-8)
    blocks = unlearned.reshape(stored.scales.numel(), -1)
    size = blocks.shape[1]
    low, high = (
        side.repeat_interleave(size).reshape(unlearned.shape) for side in (blocks.amin(dim=1), blocks.amax(dim=1))
    )
    beyond = (target <= table[0]) | (target >= table[-1]) | (below <= low) | (above >= high)
    assert (near | own | beyond).all(), "but for the ends, where no level can be written"
    assert own.float().mean() < 0.1
    assert near.float().mean() > 0.85
