"""Statistics of stored pairs, by hand and against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.engine.schemes.rounded import RoundedMatrix
from quail_audit.engine.weights.statistics import layer_statistics, summarize
from quail_audit.engine.weights.stored_sums import stored_sums
from quail_audit.schema.policy import Limits


def rounded(codes: list[list[int]], values: list[list[float]]) -> RoundedMatrix:
    return RoundedMatrix(codes=torch.tensor(codes, dtype=torch.uint8), values=torch.tensor(values))


ONE = rounded([[0, 1], [2, 3]], [[-1.0, -0.5], [0.5, 1.0]])
MOVED = rounded([[0, 2], [2, 3]], [[-1.0, 0.5], [0.5, 1.25]])  # one code, and a scale


def test_a_case_by_hand() -> None:
    sums = stored_sums(ONE, MOVED, comparable=True)
    found = layer_statistics(sums, name="m", block=1, role="r", limits=Limits())
    assert (found.weights, found.identical, found.overlap) == (4, 0.5, 0.75)
    assert (found.survival, found.noise, found.update_to_bucket) == (None, None, None)
    assert found.update_max == 1.0
    assert found.update_median == 0.0
    assert found.update_median_changed == pytest.approx(0.25, rel=0.005)
    assert (found.state, found.at_risk) == ("carried", False)


def test_states_follow_the_codes() -> None:
    same = stored_sums(ONE, ONE, comparable=True)
    assert layer_statistics(same, name="m", block=0, role="m", limits=Limits()).state == "untouched"
    few = stored_sums(ONE, MOVED, comparable=True)
    drowned = layer_statistics(few, name="m", block=0, role="m", limits=Limits(overlap_at_risk=0.75))
    assert (drowned.state, drowned.at_risk) == ("drowned", True)
    other_scale = RoundedMatrix(codes=ONE.codes, values=ONE.values * 2)
    moved = layer_statistics(
        stored_sums(ONE, other_scale, comparable=True), name="m", block=0, role="m", limits=Limits()
    )
    assert (moved.state, moved.overlap, moved.identical) == ("drowned", 1.0, 0.0)


def test_codes_of_two_formats_are_not_compared() -> None:
    sums = stored_sums(ONE, MOVED, comparable=False)
    found = layer_statistics(sums, name="m", block=0, role="m", limits=Limits())
    assert (found.overlap, found.state, found.at_risk, found.identical) == (None, None, False, 0.5)
    full = stored_sums(ONE, MOVED.values, comparable=False)
    assert layer_statistics(full, name="m", block=0, role="m", limits=Limits()).state is None


def test_what_is_full_on_both_sides_is_carried_whole() -> None:
    found = layer_statistics(
        stored_sums(ONE.values, MOVED.values, comparable=False), name="m", block=0, role="m", limits=Limits()
    )
    assert (found.state, found.survival, found.noise, found.overlap) == ("carried", 1.0, 0.0, None)
    same = layer_statistics(
        stored_sums(ONE.values, ONE.values, comparable=False), name="m", block=0, role="m", limits=Limits()
    )
    assert (same.state, same.survival) == ("untouched", None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted_and_nothing_else_is_said(bad: float) -> None:
    spoilt = rounded([[0, 1], [2, 3]], [[bad, -0.5], [bad, 1.0]])
    found = layer_statistics(stored_sums(ONE, spoilt, comparable=True), name="m", block=0, role="m", limits=Limits())
    assert (found.nonfinite_original, found.nonfinite_unlearned) == (0, 2)
    assert (found.identical, found.overlap, found.update_max, found.state) == (None, None, None, None)


@given(seed=st.integers(0, 2**30), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_sums_are_those_of_numpy(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(0, 4, (5, 7), generator=generator, dtype=torch.uint8) for _ in range(2)]
    sides = [RoundedMatrix(codes=each, values=((each.float() - 1.5) * 0.3).to(dtype)) for each in codes]
    sums = stored_sums(*sides, comparable=True)
    o, u = (side.values.double().numpy() for side in sides)
    assert sums.same_code == int((codes[0].numpy() == codes[1].numpy()).sum())
    assert sums.identical == int((o == u).sum())
    assert sums.update_max == pytest.approx(float(np.abs(u - o).max()), rel=1e-6)
    assert int(sums.updates.sum()) == int((o != u).sum())


def test_a_summary_is_over_weights_and_over_those_whose_codes_were_compared() -> None:
    parts = [stored_sums(ONE, MOVED, comparable=True), stored_sums(ONE, ONE, comparable=False)]
    layers = [layer_statistics(each, name="m", block=0, role="m", limits=Limits()) for each in parts]
    found = summarize(parts[0] + parts[1], layers)
    assert (found.weights, found.identical, found.overlap) == (8, 6 / 8, 3 / 4)
    assert (found.layers_carried, found.layers_untouched, found.layers_at_risk) == (1, 1, 0)
    assert (found.survival, found.noise) == (None, None)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        stored_sums(ONE, MOVED.values[:1], comparable=False)
