import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quail_audit.engine.schemes.bitsandbytes import LEVEL_TABLES, FourBit, bitsandbytes
from quail_audit.engine.schemes.interface import Quantized, Scheme
from quail_audit.engine.schemes.registry import known_schemes, scheme_named
from quail_audit.engine.weights import kernel_parts, loop_sums, table_kernel
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.engine.weights.statistics import layer_detail, layer_statistics, median_of_counts, summarize
from quail_audit.engine.weights.sums import PairSums
from quail_audit.engine.weights.table_kernel import BLOCKS_PER_CHUNK
from quail_audit.engine.weights.tensor_sums import sums_by_tensor_operations
from quail_audit.schema.figures import RATIO_EDGES
from quail_audit.schema.policy import Limits
from tests.support.weight_pairs import MEDIAN_ERROR, assert_equal_sums, pair

FOUR_BIT = [scheme for scheme in known_schemes() if isinstance(scheme, FourBit)]
NF4 = FOUR_BIT[0]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def codes_and_values(weight: torch.Tensor, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """bitsandbytes' own codes and dequantized values, flat."""
    functional = bitsandbytes().functional
    packed, state = functional.quantize_4bit(
        weight, quant_type=scheme.name[:3], compress_statistics=scheme.name.endswith("-dq")
    )
    codes = torch.stack((packed.flatten() >> 4, packed.flatten() & 15), 1).flatten()[: weight.numel()].numpy()
    return codes, functional.dequantize_4bit(packed, state).double().numpy().ravel()


def bucket_widths(weights: np.ndarray, codes: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Of each of the original's weights (float64, flat), in units of the weights."""
    bounds = np.concatenate(([-1.0], scheme.grid.bounds.astype(np.float64), [1.0]))
    width_of_code = dict(zip(scheme.grid.codes.tolist(), np.diff(bounds), strict=True))
    blocks = np.arange(weights.size) // scheme.grid.block_size
    absmax = np.array([abs(weights[blocks == block]).max() for block in range(blocks[-1] + 1)])[blocks]
    return np.array([width_of_code[code] for code in codes.tolist()]) * absmax


def counted_one_by_one(codes_o: np.ndarray, codes_u: np.ndarray, changed: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Transitions, weight after weight, with the levels in the order of bitsandbytes' own table."""
    table = bitsandbytes().functional.get_4bit_type(scheme.name[:3], device="cpu").numpy()
    number = np.argsort(np.argsort(table, kind="stable"), kind="stable")
    found = np.zeros((16, 16), np.int64)
    for o, u, moved in zip(codes_o.tolist(), codes_u.tolist(), changed.tolist(), strict=True):
        if moved or o != u:
            found[number[o], number[u]] += 1
    return found


def in_float64(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme) -> dict[str, float]:
    """The definitions of DESIGN section 2, read off word for word, over bitsandbytes' own codes and values."""
    codes, rounded = zip(*(codes_and_values(weight, scheme) for weight in (original, unlearned)), strict=True)
    w_o, w_u = original.double().numpy().ravel(), unlearned.double().numpy().ravel()
    d, dq = w_u - w_o, rounded[1] - rounded[0]
    changed = d != 0
    found = {
        "identical": float((~changed).mean()),
        "overlap": float((codes[0] == codes[1]).mean()),
        "update_median": float(np.quantile(abs(d), 0.5, method="lower")),
    }
    if changed.any():
        survival = float(dq @ d / (d @ d))
        with np.errstate(divide="ignore"):
            ratio = (abs(d) / bucket_widths(w_o, codes[0], scheme))[changed]
        found |= {
            "survival": survival,
            "noise": float(np.linalg.norm(dq - survival * d) / np.linalg.norm(d)),
            "update_max": float(abs(d).max()),
            "update_median_changed": float(np.quantile(abs(d)[changed], 0.5, method="lower")),
            "update_to_bucket": float(np.quantile(ratio, 0.5, method="lower")),
        }
    return found


@pytest.mark.parametrize("scheme", FOUR_BIT, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(96, 128), (33, 65), (2, 20)], ids=str)
@pytest.mark.parametrize(("update", "share"), [(1e-2, 1.0), (1e-4, 1.0), (1e-2, 0.02), (0.0, 0.0)])
def test_every_statistic_is_its_definition(
    scheme: Scheme, dtype: torch.dtype, shape: tuple[int, int], update: float, share: float
) -> None:
    original, unlearned = (weight.to(dtype) for weight in pair(shape, update, share))
    layer = layer_statistics(pair_sums(original, unlearned, scheme), name="x", block=None, role="x")
    expected = in_float64(original, unlearned, scheme)
    assert layer.identical == expected["identical"]
    assert layer.overlap == expected["overlap"]
    for name, tolerance in [("survival", 1e-5), ("noise", 1e-4), ("update_max", 1e-6)]:
        if name in expected:
            assert getattr(layer, name) == pytest.approx(expected[name], rel=tolerance, abs=1e-7), name
    for name in ("update_median", "update_median_changed", "update_to_bucket"):
        if name in expected:
            assert getattr(layer, name) == pytest.approx(expected[name], rel=MEDIAN_ERROR), name
    if expected["identical"] == 1.0:
        assert layer.state == "untouched"
        assert (layer.survival, layer.noise, layer.update_median_changed, layer.at_risk) == (None, None, None, False)


@pytest.mark.parametrize("scheme", FOUR_BIT, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(96, 128), (33, 65), (2, 20)], ids=str)
@pytest.mark.parametrize(("update", "share"), [(1e-2, 1.0), (1e-4, 1.0), (1e-2, 0.5), (1e-2, 0.02), (0.0, 0.0)])
def test_a_layers_detail_is_counted_weight_by_weight(
    scheme: Scheme, dtype: torch.dtype, shape: tuple[int, int], update: float, share: float
) -> None:
    original, unlearned = (weight.to(dtype) for weight in pair(shape, update, share))
    sums = pair_sums(original, unlearned, scheme)
    detail = layer_detail(sums)
    assert detail is not None
    codes_o, codes_u = (codes_and_values(weight, scheme)[0] for weight in (original, unlearned))
    w_o, w_u = original.double().numpy().ravel(), unlearned.double().numpy().ravel()
    changed = w_o != w_u

    transitions = np.array(detail.transitions).reshape(16, 16)
    assert np.array_equal(transitions, counted_one_by_one(codes_o, codes_u, changed, scheme))
    assert transitions.sum() - transitions.trace() == sums.weights - sums.same_code
    assert transitions.sum() == (changed | (codes_o != codes_u)).sum() >= sums.weights - sums.identical

    assert len(detail.ratio_counts) == len(RATIO_EDGES) + 1
    assert sum(detail.ratio_counts) == changed.sum() == sums.weights - sums.identical
    ratio = (abs(w_u - w_o) / bucket_widths(w_o, codes_o, scheme))[changed]
    below = np.cumsum(detail.ratio_counts)[:-1]
    for edge, count in zip(RATIO_EDGES, below.tolist(), strict=True):  # float32 ratios: those at an edge may cross it
        assert (ratio < edge * (1 - 1e-6)).sum() <= count <= (ratio < edge * (1 + 1e-6)).sum(), edge


def test_a_ratio_at_an_edge_is_counted_above_it() -> None:
    """One ratio at a time, through PairSums' bins: the smallest, each edge and its neighbours, and infinity."""
    edges = np.array(RATIO_EDGES, np.float32)
    assert edges.astype(np.float64).tolist() == list(RATIO_EDGES)
    for ratio in (np.float32(0), *edges, *np.nextafter(edges, np.float32(0)), *(edges * 1.01), np.float32(np.inf)):
        ratios = np.zeros(kernel_parts.BINS, np.int64)
        ratios[ratio.view(np.int32) >> kernel_parts.BIN_SHIFT] = 7
        detail = layer_detail(PairSums(ratios=ratios))
        assert detail is not None
        expected = [0] * (len(edges) + 1)
        expected[np.searchsorted(edges, ratio, side="right")] = 7
        assert list(detail.ratio_counts) == expected, ratio


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("unit", [1.0, 2.0**126], ids=["all at once", "weight by weight"])
def test_a_scale_that_moves_gives_equal_weights_other_codes(dtype: torch.dtype, unit: float) -> None:
    """The block's scale doubles: its weights of 0.5 fall from level 12 of nf4 (0.44) to level 10 (0.246)."""
    original = torch.zeros(2, 64, dtype=dtype)
    original[0, 0], original[0, 1:40] = unit, 0.5 * unit
    unlearned = original.clone()
    unlearned[0, 0] = 2 * unit
    sums = pair_sums(original, unlearned, NF4)
    detail = layer_detail(sums)
    assert detail is not None
    expected = np.zeros((16, 16), np.int64)
    expected[12, 10], expected[15, 15] = 39, 1
    assert np.array_equal(sums.transitions, expected)
    assert detail.transitions == tuple(expected.reshape(-1).tolist())
    assert (sums.identical, sums.same_code) == (127, 128 - 39)
    assert sum(detail.ratio_counts) == 1


@pytest.mark.parametrize("moved", [3, 60], ids=["weight by weight", "all at once"])
def test_fp4_has_a_level_on_either_side_of_zero(moved: int) -> None:
    original = torch.full((1, 64), -1e-5)
    original[0, 63] = 1.0
    unlearned = original.clone()
    unlearned[0, :moved] = 1e-5
    sums = pair_sums(original, unlearned, scheme_named("fp4"))
    expected = np.zeros((16, 16), np.int64)
    expected[7, 8] = moved
    assert np.array_equal(sums.transitions, expected)
    assert sums.same_code == 64 - moved


def test_a_grid_of_two_equal_zeros_is_not_for_the_loop() -> None:
    assert all(table_kernel.fits(scheme.grid) for scheme in FOUR_BIT)
    fp4 = LEVEL_TABLES["fp4"]
    assert not table_kernel.fits(dataclasses.replace(fp4, levels=fp4.levels + np.float32(0)))  # -0 + 0 is 0


@given(st.sets(st.floats(-1, 1, width=32), min_size=16, max_size=16))
def test_any_levels_have_slots_of_their_own(levels: set[float]) -> None:
    _, slots = table_kernel._slots_of(np.array(sorted(levels), np.float32))
    assert len(set(slots)) == 16
    assert max(slots) < 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.05])
def test_runs_too_short_to_overflow_a_count_do_not_show(
    dtype: torch.dtype, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loop_sums.WEIGHTS_PER_RUN < 2**31
    original, unlearned = (weight.to(dtype) for weight in pair((500, 65), 1e-2, share))
    whole = pair_sums(original, unlearned, NF4)
    monkeypatch.setattr(loop_sums, "WEIGHTS_PER_RUN", 64 * 100)
    runs = pair_sums(original, unlearned, NF4)
    assert_equal_sums(runs, whole)
    for counts in ("updates", "ratios"):
        assert np.array_equal(getattr(runs, counts), getattr(whole, counts)), counts


def test_a_block_worked_by_hand() -> None:
    """One block of scale 1, of which two weights moved: one across a bound of nf4, one inside its bucket.

    The bound between 0 and 0.0796 is 0.0398. The bucket of 0.03 is [-0.0455, 0.0398], that of 0.1 is [0.0398, 0.1203].
    """
    original = torch.zeros(1, 64)
    original[0, 0], original[0, 1], original[0, 2] = 1.0, 0.03, 0.1
    unlearned = original.clone()
    unlearned[0, 1], unlearned[0, 2] = 0.05, 0.11
    sums = pair_sums(original, unlearned, NF4)
    layer = layer_statistics(sums, name="x", block=None, role="x")
    assert (layer.identical, layer.overlap) == (62 / 64, 63 / 64)
    step = 0.07958029955625534  # what 0.03 -> 0.05 becomes; 0.1 -> 0.11 becomes nothing
    norm = 0.02**2 + 0.01**2
    survival = step * 0.02 / norm
    noise = math.sqrt(((step - survival * 0.02) ** 2 + (survival * 0.01) ** 2) / norm)
    assert layer.survival == pytest.approx(survival, rel=1e-5)
    assert layer.noise == pytest.approx(noise, rel=1e-5)
    assert layer.update_max == pytest.approx(0.02, rel=1e-5)
    assert layer.update_median == 0.0
    assert layer.update_median_changed == pytest.approx(0.01, rel=MEDIAN_ERROR)
    assert layer.update_to_bucket == pytest.approx(0.01 / (0.12025525 - 0.03979015), rel=MEDIAN_ERROR)
    assert layer.state == "carried"
    detail = layer_detail(sums)
    assert detail is not None
    # of the edges, 0.1242 has 0.09375 below it and 0.125 above, 0.2346 has 0.1875 and 0.25
    assert {RATIO_EDGES[bin_ - 1]: count for bin_, count in enumerate(detail.ratio_counts) if count} == {
        0.09375: 1,
        0.1875: 1,
    }
    assert {divmod(cell, 16): count for cell, count in enumerate(detail.transitions) if count} == {(7, 8): 1, (8, 8): 1}


@pytest.mark.parametrize("scheme", FOUR_BIT, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_done_weight_by_weight_are_as_the_others(
    scheme: Scheme, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, unlearned = (weight.to(dtype) for weight in pair((512, 64), 1e-2, 0.1))
    changed = (original != unlearned).sum(dim=1)
    assert int((changed <= kernel_parts.FEW_CHANGED * 64).sum()) > 500  # blocks of 512
    one_by_one = pair_sums(original, unlearned, scheme)
    monkeypatch.setattr(table_kernel, "FEW_CHANGED", 0.0)
    table_kernel._pair_kernel.cache_clear()
    together = pair_sums(original, unlearned, scheme)
    table_kernel._pair_kernel.cache_clear()
    assert_equal_sums(one_by_one, together)
    for counts in ("updates", "ratios", "transitions"):
        assert np.array_equal(getattr(one_by_one, counts), getattr(together, counts)), counts


@pytest.mark.parametrize("update", [1e-44, 1e-40, 1e-30, 1e-10])
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_an_update_far_smaller_than_its_block_is_erased_not_overlooked(update: float, share: float) -> None:
    original = torch.full((4, 64), update)
    original[:, 0] = 1.0
    unlearned = original.clone()
    unlearned[:, 1 : 1 + int(63 * share)] *= 2
    layer = layer_statistics(pair_sums(original, unlearned, NF4), name="x", block=None, role="x")
    assert (layer.state, layer.survival, layer.overlap) == ("erased", 0.0, 1.0)


def test_differences_beyond_a_float32() -> None:
    """Weights of 3e38 and their opposites: the update is 6e38, and all of it is carried."""
    original = torch.full((2, 64), 3e38)
    sums = pair_sums(original, -original, NF4)
    assert sums.survival == pytest.approx(1.0)
    assert sums.update_max == pytest.approx(6e38)
    layer = layer_statistics(sums, name="x", block=None, role="x")
    assert layer.update_median is not None
    assert math.isfinite(layer.update_median)


def test_a_scale_that_overflows_leaves_no_figures() -> None:
    weight = torch.full((4, 64), 3e38)  # the mean of such scales, which double quantization takes off, is infinite
    sums = pair_sums(weight, -weight, scheme_named("nf4-dq"))
    assert layer_statistics(sums, name="x", block=None, role="x").overlap is None
    assert layer_detail(sums) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_double_quantization_of_weights_that_are_no_numbers(dtype: torch.dtype) -> None:
    original, unlearned = (weight.to(dtype) for weight in pair((8, 65), 1e-3, 1.0))
    unlearned[1, 2] = math.nan
    sums = pair_sums(original, unlearned, scheme_named("nf4-dq"))
    assert (sums.nonfinite_original, sums.nonfinite_unlearned) == (0, 1)


def test_a_grid_of_other_than_16_levels_is_measured_too() -> None:
    class Ternary(Scheme):
        name, title, bits_per_weight, block, levels = "ternary", "three levels", 2.0, "32", 3

        def quantize(self, weight: torch.Tensor) -> Quantized:
            absmax = weight.reshape(-1, 32).abs().amax(1)
            scaled = weight.reshape(-1, 32) / absmax[:, None]
            codes = torch.bucketize(scaled, torch.tensor([-0.5, 0.5])).to(torch.uint8)
            return Quantized(codes=codes.reshape(weight.shape), scales=absmax, dtype=weight.dtype)

        def dequantize(self, quantized: Quantized) -> torch.Tensor:
            levels = quantized.codes.reshape(-1, 32).float() - 1
            return (levels * quantized.scales[:, None]).reshape(quantized.codes.shape).to(quantized.dtype)

        def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
            return quantized.scales.repeat_interleave(32).reshape(weight.shape)

    original, unlearned = torch.full((1, 32), 0.4), torch.full((1, 32), 0.6)
    original[0, 0] = unlearned[0, 0] = 1.0
    sums = pair_sums(original, unlearned, Ternary())
    layer = layer_statistics(sums, name="x", block=None, role="x")
    assert layer.overlap == 1 / 32
    assert sums.transitions.tolist() == [[0, 0, 0], [0, 0, 31], [0, 0, 0]]
    assert layer.survival == pytest.approx(5.0)  # each of 31 steps of 0.2 became one of 1


@pytest.mark.parametrize("scheme", ["nf4", "nf4-dq"])
@pytest.mark.parametrize("first", DTYPES, ids=str)
@pytest.mark.parametrize("second", DTYPES, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_pairs_of_mixed_dtype(scheme: str, first: torch.dtype, second: torch.dtype, share: float) -> None:
    original, unlearned = pair((300, 128), 1e-3, share)
    original, unlearned = original.to(first), unlearned.to(second)
    rounding = scheme_named(scheme)
    assert_equal_sums(
        pair_sums(original, unlearned, rounding), sums_by_tensor_operations(original, unlearned, rounding)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.05])
def test_the_threads_do_not_show(dtype: torch.dtype, share: float) -> None:
    """More blocks than a chunk has, with a chunk that is not full: bitwise the same sums for any number of threads."""
    rows = 3 * BLOCKS_PER_CHUNK + 100
    original, unlearned = (weight.to(dtype) for weight in pair((rows, 64), 1e-3, share))
    one, two, five = (pair_sums(original, unlearned, NF4, threads=threads) for threads in (1, 2, 5))
    for field in dataclasses.fields(PairSums):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name)), field.name
        assert np.array_equal(getattr(one, field.name), getattr(five, field.name)), field.name


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    original, unlearned = pair((128, 64), 1e-3, 0.5)
    parts = sum((pair_sums(original[i : i + 32], unlearned[i : i + 32], NF4) for i in range(0, 128, 32)), PairSums())
    assert_equal_sums(parts, pair_sums(original, unlearned, NF4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [(0, 0), (3, 64)], ids=["in a whole block", "in the short last block"])
def test_weights_that_are_no_numbers_are_counted(dtype: torch.dtype, place: tuple[int, int]) -> None:
    original, unlearned = (weight.to(dtype) for weight in pair((4, 65), 1e-3, 1.0))
    original[place] = math.nan
    unlearned[place] = -math.inf
    unlearned[1, 5] = math.nan
    sums = pair_sums(original, unlearned, NF4)
    assert (sums.nonfinite_original, sums.nonfinite_unlearned) == (1, 2)
    layer = layer_statistics(sums, name="x", block=0, role="x")
    assert layer.state is None
    assert not layer.at_risk
    assert layer.overlap is None
    assert layer.weights == 260
    assert layer_detail(sums) is None


def test_equal_weights_that_are_no_numbers_are_counted_too() -> None:
    weight = torch.zeros(2, 64)
    weight[1, 1] = math.inf
    sums = pair_sums(weight, weight.clone(), NF4)
    assert (sums.nonfinite_original, sums.nonfinite_unlearned) == (1, 1)


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-38, 1e-30, 1e-12, 1.0, 1e12, 1e30, 1e37])
def test_the_unit_of_the_weights_does_not_show(scale: float) -> None:
    """Survival and noise are ratios: they hold from subnormal weights to the largest."""
    original, unlearned = (weight * scale for weight in pair((64, 64), 1e-3, 1.0))
    sums = pair_sums(original, unlearned, NF4)
    d = unlearned.double() - original.double()
    dq = NF4.dequantize(NF4.quantize(unlearned)).double() - NF4.dequantize(NF4.quantize(original)).double()
    if float((d * d).sum()) > 0:
        assert sums.survival == pytest.approx(float((dq * d).sum() / (d * d).sum()), rel=1e-4)
    assert sums.noise is None or math.isfinite(sums.noise)


@settings(max_examples=100)
@given(
    bits=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=200),
    dtype=st.sampled_from(DTYPES),
    keep=st.lists(st.booleans(), min_size=200, max_size=200),
    kind=st.sampled_from(["nf4", "fp4"]),
)
def test_any_bits_give_finite_figures_or_counts(
    bits: list[tuple[int, int]], dtype: torch.dtype, keep: list[bool], kind: str
) -> None:
    scheme = scheme_named(kind)
    values = torch.from_numpy(np.array(bits, np.uint32).view(np.float32).copy())
    original = values[:, 0].to(dtype).reshape(1, -1)
    unlearned = torch.where(torch.tensor(keep[: len(bits)]), values[:, 0], values[:, 1]).to(dtype).reshape(1, -1)
    sums = pair_sums(original, unlearned, scheme)
    assert sums.nonfinite_original == int((~original.isfinite()).sum())
    assert sums.nonfinite_unlearned == int((~unlearned.isfinite()).sum())
    layer = layer_statistics(sums, name="x", block=None, role="x")  # refuses figures that are not finite
    if sums.is_finite:
        codes = [scheme.quantize(weight).codes for weight in (original, unlearned)]
        assert layer.overlap == float((codes[0] == codes[1]).double().mean())
        stored = [
            weight.view(torch.int32 if dtype == torch.float32 else torch.int16) for weight in (original, unlearned)
        ]
        changed = (stored[0] != stored[1]).numpy().ravel()
        by_hand = counted_one_by_one(codes[0].numpy().ravel(), codes[1].numpy().ravel(), changed, scheme)
        assert np.array_equal(sums.transitions, by_hand)
        assert sums.ratios.sum() == changed.sum()


finite = st.floats(allow_nan=False, allow_infinity=False, width=16)


@settings(max_examples=100)
@given(
    values=st.lists(
        st.tuples(finite, finite, st.booleans()),
        min_size=64,
        max_size=200,
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scheme=st.sampled_from(FOUR_BIT),
)
def test_the_loop_counts_what_tensor_operations_count(
    values: list[tuple[float, float, bool]], dtype: torch.dtype, scheme: Scheme
) -> None:
    original = torch.tensor([[o for o, _, _ in values]], dtype=dtype)
    unlearned = torch.tensor([[u if moved else o for o, u, moved in values]], dtype=dtype)
    ours, theirs = pair_sums(original, unlearned, scheme), sums_by_tensor_operations(original, unlearned, scheme)
    assert np.array_equal(ours.transitions, theirs.transitions)
    assert (ours.identical, ours.same_code) == (theirs.identical, theirs.same_code)
    assert ours.transitions.sum() - ours.transitions.trace() == ours.weights - ours.same_code
    assert ours.ratios.sum() == ours.weights - ours.identical


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        pair_sums(torch.zeros(2, 64), torch.zeros(64, 2), NF4)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=50), st.integers(0, 20))
def test_medians_of_counts_are_close_to_the_medians(values: list[float], zeros: int) -> None:
    magnitudes = np.array(values, np.float32)
    counts = np.bincount(magnitudes.view(np.int32) >> 15, minlength=1 << 16)
    exact = float(np.quantile(np.concatenate([magnitudes, np.zeros(zeros)]), 0.5, method="lower"))
    assert median_of_counts(counts, zeros) == pytest.approx(exact, rel=MEDIAN_ERROR)


def test_a_median_of_nothing_is_unknown() -> None:
    assert median_of_counts(np.zeros(1 << 16, np.int64)) is None
    assert median_of_counts(np.zeros(1 << 16, np.int64), zeros=3) == 0.0


@pytest.mark.parametrize(
    ("same_code", "dot", "state", "at_risk"),
    [
        (1000, 0.0, "erased", True),
        (900, 0.49, "erased", True),
        (900, 0.5, "carried", False),
        (998, 1.0, "carried", False),
        (999, 1.0, "drowned", True),
        (1000, 1.0, "drowned", True),
    ],
)
def test_states_follow_the_limits(same_code: int, dot: float, state: str, at_risk: bool) -> None:
    sums = PairSums(weights=1000, identical=0, same_code=same_code, dot=dot, update_squared=1.0, rounded_squared=2.0)
    layer = layer_statistics(sums, name="x", block=None, role="x")
    assert (layer.state, layer.at_risk) == (state, at_risk)


def test_the_limits_are_settings() -> None:
    sums = PairSums(weights=1000, same_code=950, dot=0.8, update_squared=1.0, rounded_squared=2.0)
    assert layer_statistics(sums, name="x", block=None, role="x").state == "carried"
    assert layer_statistics(sums, name="x", block=None, role="x", limits=Limits(overlap_at_risk=0.9)).state == "drowned"
    assert layer_statistics(sums, name="x", block=None, role="x", limits=Limits(survival_at_risk=0.9)).state == "erased"


def test_a_summary_is_over_weights_not_over_layers() -> None:
    small = PairSums(weights=10, identical=0, same_code=0, dot=1.0, update_squared=1.0, rounded_squared=1.0)
    large = PairSums(weights=90, identical=90, same_code=90)
    layers = [layer_statistics(sums, name=name, block=None, role="x") for name, sums in (("a", small), ("b", large))]
    summary = summarize(small + large, layers)
    assert (summary.weights, summary.identical, summary.overlap, summary.survival) == (100, 0.9, 0.9, 1.0)
    assert (summary.layers_carried, summary.layers_untouched, summary.layers_at_risk) == (1, 1, 0)


@pytest.mark.cuda
def test_on_a_gpu_the_sums_are_the_same() -> None:
    original, unlearned = pair((256, 128), 1e-3, 0.5)
    assert_equal_sums(pair_sums(original.cuda(), unlearned.cuda(), NF4), pair_sums(original, unlearned, NF4))


SUMS_TO_STDOUT = """
import torch
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
noise = torch.Generator().manual_seed(0)
original = torch.randn(64, 4096, generator=noise)
unlearned = original + 0.1 * torch.randn(64, 4096, generator=noise)
for name in ("fp4", "int8"):
    sums = pair_sums(original, unlearned, scheme_named(name))
    print(sums.dot.hex(), sums.update_squared.hex(), sums.rounded_squared.hex())
"""


@pytest.mark.slow
def test_a_loop_loaded_from_disk_sums_as_the_one_just_compiled(tmp_path):
    def sums() -> str:
        return subprocess.run(
            [sys.executable, "-c", SUMS_TO_STDOUT],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    compiled = sums()
    kept = sorted(tmp_path.rglob("*.nbc"))
    assert {path.name.partition(".")[0] for path in kept} >= {"table_kernel", "affine_kernel"}
    assert sums() == compiled
    assert sorted(tmp_path.rglob("*.nbc")) == kept, "the second process has compiled again"
