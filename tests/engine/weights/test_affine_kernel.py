"""The loop over schemes with even levels, against the definitions in float64 and against tensor operations."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quail_audit.engine.schemes.affine import AffineScheme
from quail_audit.engine.schemes.interface import Scheme
from quail_audit.engine.schemes.registry import known_schemes, scheme_named
from quail_audit.engine.weights import affine_kernel, loop_sums, table_kernel
from quail_audit.engine.weights.pair import MatrixPair, pair_sums
from quail_audit.engine.weights.statistics import layer_detail, layer_statistics
from quail_audit.engine.weights.tensor_sums import sums_by_tensor_operations
from tests.support.weight_pairs import MEDIAN_ERROR, assert_equal_sums, pair

# Compiling a loop takes seconds, for each scheme and pair of types: the default run has a scheme of each loop and each
# type once, the slow one has them all.
ONE_A_LOOP = [scheme_named(name) for name in ("rtn-int4-g128-asym", "gguf-q4_0", "gguf-q8_0", "int8")]
OTHERS: list[Scheme] = [
    scheme
    for scheme in known_schemes()
    if isinstance(scheme, AffineScheme) and scheme.name not in {one.name for one in ONE_A_LOOP}
]


def marked_slow(schemes: list[Scheme]) -> list[Any]:
    return [pytest.param(scheme, marks=pytest.mark.slow) for scheme in schemes]


EVEN = [*ONE_A_LOOP, *marked_slow(OTHERS)]
FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.slow)  # by default with float32: MIXED
DTYPES = [torch.float32, FLOAT16, torch.bfloat16]
MIXED = [pytest.param(torch.float32, torch.bfloat16, marks=pytest.mark.slow), (torch.float16, torch.float32)]


@pytest.mark.parametrize("scheme", EVEN, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("update", "share"), [(1e-2, 1.0), (1e-4, 1.0), (1e-2, 0.02), (0.0, 0.0)])
def test_every_statistic_is_its_definition(
    scheme: AffineScheme, dtype: torch.dtype, update: float, share: float
) -> None:
    """DESIGN section 2, word for word, over the scheme's own codes and values, which are the library's."""
    original, unlearned = (weight.to(dtype) for weight in pair((96, 256), update, share))
    layer = layer_statistics(pair_sums(original, unlearned, scheme), name="x", block=None, role="x")
    rounded = [scheme.round(side) for side in (original, unlearned)]
    values = [side.values.double().numpy() for side in rounded]
    d = (unlearned.double() - original.double()).numpy()
    dq = values[1] - values[0]
    assert layer.identical == float((original == unlearned).double().mean())
    assert layer.overlap == float((rounded[0].codes == rounded[1].codes).double().mean())
    if not share:
        assert layer.state == "untouched"
        return
    survival = float((dq * d).sum() / (d * d).sum())
    assert layer.survival == pytest.approx(survival, rel=1e-5, abs=1e-7)
    assert layer.noise == pytest.approx(float(np.linalg.norm(dq - survival * d) / np.linalg.norm(d)), rel=1e-4)
    assert layer.update_max == pytest.approx(float(abs(d).max()), rel=1e-6)
    changed = d != 0
    assert rounded[0].widths is not None
    ratios = abs(d)[changed] / rounded[0].widths.double().numpy()[changed]
    assert layer.update_to_bucket == pytest.approx(float(np.quantile(ratios, 0.5, method="lower")), rel=MEDIAN_ERROR)


@pytest.mark.parametrize("scheme", ONE_A_LOOP, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(("first", "second"), MIXED, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_the_loop_counts_what_tensor_operations_count(
    scheme: AffineScheme, first: torch.dtype, second: torch.dtype, share: float
) -> None:
    original, unlearned = pair((40, 384), 1e-3, share)
    original, unlearned = original.to(first), unlearned.to(second)
    assert_equal_sums(pair_sums(original, unlearned, scheme), sums_by_tensor_operations(original, unlearned, scheme))


finite = st.floats(-60000, 60000, width=16)


@settings(max_examples=150)
@given(
    values=st.lists(st.tuples(finite, finite, st.booleans()), min_size=128, max_size=128),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scheme=st.sampled_from(ONE_A_LOOP),
)
def test_any_weights(values: list[tuple[float, float, bool]], dtype: torch.dtype, scheme: AffineScheme) -> None:
    original = torch.tensor([[o for o, _, _ in values]], dtype=dtype)
    unlearned = torch.tensor([[u if moved else o for o, u, moved in values]], dtype=dtype)
    ours, theirs = pair_sums(original, unlearned, scheme), sums_by_tensor_operations(original, unlearned, scheme)
    assert (ours.identical, ours.same_code) == (theirs.identical, theirs.same_code)
    assert np.array_equal(ours.transitions, theirs.transitions)
    assert ours.dot == pytest.approx(theirs.dot, rel=1e-4, abs=1e-5 * math.sqrt(ours.update_squared + 1))


@pytest.mark.parametrize("scheme", EVEN, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_and_pieces_do_not_show(
    scheme: AffineScheme, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, unlearned = (weight.to(dtype) for weight in pair((600, 1024), 1e-3, 0.5))
    alone, together = (pair_sums(original, unlearned, scheme, threads=threads) for threads in (1, 2))
    assert (alone.dot, alone.rounded_squared) == (together.dot, together.rounded_squared)
    assert np.array_equal(alone.ratios, together.ratios)
    monkeypatch.setattr(loop_sums, "WEIGHTS_PER_PIECE", 100 * 1024)
    assert_equal_sums(pair_sums(original, unlearned, scheme), alone)


@pytest.mark.parametrize("scheme", [ONE_A_LOOP[0], *marked_slow(ONE_A_LOOP[1:])], ids=lambda scheme: scheme.name)
def test_blocks_done_weight_by_weight_are_as_the_others(scheme: AffineScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    original, unlearned = pair((64, 256), 1e-2, 0.1)
    one_by_one = pair_sums(original, unlearned, scheme)
    monkeypatch.setattr(affine_kernel, "FEW_CHANGED", 0.0)
    affine_kernel._pair_kernel.cache_clear()
    together = pair_sums(original, unlearned, scheme)
    affine_kernel._pair_kernel.cache_clear()
    assert_equal_sums(one_by_one, together)
    for counts in ("updates", "ratios", "transitions"):
        assert np.array_equal(getattr(one_by_one, counts), getattr(together, counts)), counts


@pytest.mark.parametrize("scheme", EVEN, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_counted(scheme: AffineScheme, bad: float) -> None:
    original, unlearned = pair((4, 256), 1e-3, 1.0)
    original[1, 2] = unlearned[2, 200] = unlearned[3, 3] = bad
    sums = pair_sums(original, unlearned, scheme)
    assert (sums.nonfinite_original, sums.nonfinite_unlearned) == (1, 2)
    assert layer_statistics(sums, name="x", block=None, role="x").state is None


def test_a_loop_closes_over_nothing_that_is_another_in_the_next_process() -> None:
    """Or what numba kept of it is never found again, and every audit compiles for seconds and leaves more files."""
    loops = (
        affine_kernel._pair_kernel(0, True, False, True, 128, 4, 0, 0),
        table_kernel._pair_kernel((0.0,) * 15, tuple(map(float, range(16))), (1.0,) * 16, 64, 0, 0, True),
    )
    for loop in loops:
        closed_over = inspect.getclosurevars(loop.py_func).nonlocals
        assert closed_over
        for name, value in closed_over.items():
            numbers = value if isinstance(value, tuple) else (value,)
            assert all(isinstance(number, int | np.number) for number in numbers), name


def test_rows_that_suit_no_loop_are_measured_too() -> None:
    original, unlearned = pair((16, 101), 1e-3, 1.0)
    scheme = scheme_named("int8")
    assert_equal_sums(pair_sums(original, unlearned, scheme), sums_by_tensor_operations(original, unlearned, scheme))


def test_a_group_worked_by_hand() -> None:
    """Four bits, a group whose largest weight is 7.5: levels at every whole number from -8 to 7."""
    original = torch.zeros(1, 32)
    original[0, :4] = torch.tensor([7.5, 1.0, 2.25, -3.0])
    unlearned = original.clone()
    unlearned[0, 1], unlearned[0, 2] = 1.75, 2.0  # to the next level; back inside its own
    sums = pair_sums(original, unlearned, scheme_named("rtn-int4-g32"))
    layer = layer_statistics(sums, name="x", block=None, role="x")
    assert (layer.identical, layer.overlap) == (30 / 32, 31 / 32)
    norm = 0.75**2 + 0.25**2
    assert layer.survival == pytest.approx(0.75 / norm, rel=1e-6)
    assert layer.noise == pytest.approx(math.sqrt(1 / norm - (0.75 / norm) ** 2), rel=1e-6)
    assert layer.update_to_bucket == pytest.approx(0.25, rel=MEDIAN_ERROR)
    detail = layer_detail(sums)
    assert detail is not None
    assert {divmod(cell, 16): count for cell, count in enumerate(detail.transitions) if count} == {
        (9, 10): 1,
        (10, 10): 1,
    }


def test_of_many_levels_no_transitions_are_kept() -> None:
    sums = pair_sums(*pair((8, 128), 1e-3, 1.0), scheme_named("int8"))
    detail = layer_detail(sums)
    assert detail is not None
    assert detail.transitions == ()
    assert sum(detail.ratio_counts) == 8 * 128


def test_what_schemes_share_is_what_each_would_have_found_alone() -> None:
    """In any order, with blocks of 32 and 64 and a row, a short last piece, and a scheme without a loop."""
    original, unlearned = pair((5, 32 * 7), 1e-3, 0.5)
    names = ["gguf-q4_0", "nf4", "rtn-int4-g32", "int8", "mxfp4", "fp4"]
    schemes = [scheme_named(name) for name in names]
    for order in (schemes, schemes[::-1]):
        matrices = MatrixPair(original, unlearned, order)
        for scheme in order:
            together, alone = matrices.sums_under(scheme), pair_sums(original, unlearned, scheme)
            assert_equal_sums(together, alone)
            assert np.array_equal(together.ratios, alone.ratios)
            assert together.updates.sum() == together.weights - together.identical


def test_a_scheme_whose_scales_overflow_shares_nothing() -> None:
    """int8 casts to float16 first, which holds no 1e6; nf4 does not mind."""
    original, unlearned = (side * 1e8 for side in pair((4, 128), 1e-3, 1.0))
    matrices = MatrixPair(original, unlearned, [scheme_named("int8"), scheme_named("nf4"), scheme_named("fp4")])
    assert not matrices.sums_under(scheme_named("int8")).is_finite
    for name in ("nf4", "fp4"):
        assert_equal_sums(matrices.sums_under(scheme_named(name)), pair_sums(original, unlearned, scheme_named(name)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [32, 96])
def test_extremes_are_those_of_each_block(dtype: torch.dtype, size: int) -> None:
    """Zeros of both signs, equal magnitudes of both signs, subnormals, one sign only; and of blocks joined."""
    blocks = torch.randn(12, size, generator=torch.Generator().manual_seed(0))
    blocks[0], blocks[1], blocks[2], blocks[3] = 0.0, -0.0, blocks[2].abs(), -blocks[3].abs()
    blocks[4, 5], blocks[4, 9], blocks[5, 5], blocks[5, 9] = 7.0, -7.0, -7.0, 7.0
    blocks[6] *= 1e-39
    blocks = blocks.to(dtype)
    found = loop_sums.extremes_of(blocks, size)
    joined = loop_sums._merge_extremes(found, 4)
    for ours, rows in ((found, blocks.float()), (joined, blocks.float().reshape(4, -1))):
        for place, row in enumerate(rows.tolist()):
            assert float(ours.low[place]) == min(row)
            assert float(ours.high[place]) == max(row)
            assert float(ours.farthest[place]) == next(w for w in row if abs(w) == max(map(abs, row)))
