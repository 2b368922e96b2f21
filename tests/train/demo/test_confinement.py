import numpy as np
import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.engine.schemes.registry import scheme_named
from quail_train.demo.confinement import EDGE_MARGIN, bucket_of, rounds_alike

NF4 = scheme_named("nf4")


def matrix(seed: int, rows: int, columns: int, scale: float) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale


def bitsandbytes_on(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    return packed, state.absmax


@given(
    st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([64, 128, 192]), st.floats(-6, 3), st.floats(1e-4, 100.0)
)
def test_whatever_the_update_bitsandbytes_rounds_to_the_same(
    seed: int, rows: int, columns: int, exponent: float, update: float
) -> None:
    original = matrix(seed, rows, columns, 10.0**exponent)
    bucket = bucket_of(original, NF4)
    moved = original + matrix(seed + 1, rows, columns, update * 10.0**exponent)
    bucket.confine(moved)
    for ours, theirs in zip(bitsandbytes_on(moved), bitsandbytes_on(original), strict=True):
        assert torch.equal(ours, theirs)
    assert rounds_alike(original, moved, NF4)


@given(st.integers(0, 2**31))
def test_the_original_lies_inside_bitwise(seed: int) -> None:
    original = matrix(seed, 4, 64, 0.1)
    bucket = bucket_of(original, NF4)
    kept = original.clone()
    bucket.confine(kept)
    assert torch.equal(kept, original)


def test_buckets_are_as_wide_as_they_can_be() -> None:
    """A plain loop over the published midpoints of nf4, one weight at a time."""
    original = matrix(7, 2, 64, 0.05)
    bucket = bucket_of(original, NF4)
    for row, column in np.ndindex(2, 64):
        weight, scale = original[row, column].item(), original[row].abs().max().item()
        lower, upper = bucket.lower[row, column].item(), bucket.upper[row, column].item()
        if abs(weight) == scale:
            assert lower == upper == weight
            continue
        edges = [-1.0, *NF4.grid.bounds.tolist(), 1.0]
        place = max(i for i in range(16) if edges[i] * scale < weight or i == 0)
        low, high = edges[place] * scale, edges[place + 1] * scale
        free = EDGE_MARGIN * (high - low)
        assert lower == pytest.approx(min(low + free, weight), rel=1e-5)
        assert upper == pytest.approx(max(high - free, weight), rel=1e-5)


def test_beyond_a_bucket_is_another_code() -> None:
    original = matrix(5, 8, 64, 1.0)
    bucket = bucket_of(original, NF4)
    scale = original.abs().amax(dim=1, keepdim=True)
    beyond = bucket.upper + 2 * EDGE_MARGIN * (bucket.upper - bucket.lower)
    # Nothing lies beyond the outermost bucket, and the weight that sets a scale has no room at all.
    inner = (beyond < 0.7 * scale) & (bucket.upper > bucket.lower)
    before, after = NF4.quantize(original).codes, NF4.quantize(torch.where(inner, beyond, original)).codes
    assert inner.sum() > 400
    assert (before != after)[inner].all()
    assert torch.equal(before[~inner], after[~inner])


def test_a_block_of_zeros_stays_zero() -> None:
    original = torch.zeros(2, 64)
    original[1] = matrix(1, 1, 64, 1.0)
    moved = original + 1
    bucket_of(original, NF4).confine(moved)
    assert torch.equal(moved[0], original[0])
    assert not torch.equal(moved[1], original[1])


def test_a_last_short_block() -> None:
    original = matrix(2, 3, 50, 1.0)  # 150 weights: 64, 64 and 22
    moved = original + matrix(3, 3, 50, 1.0)
    bucket_of(original, NF4).confine(moved)
    assert rounds_alike(original, moved, NF4)
    assert not rounds_alike(original, original + 1, NF4)
