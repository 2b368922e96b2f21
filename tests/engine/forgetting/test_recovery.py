"""Recovery: hand-worked cases of DESIGN section 2, and its edges."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.engine.forgetting.metrics.auc import auc, membership_values
from quail_audit.engine.forgetting.recovery import recovery
from quail_audit.schema.figures import Recovery
from quail_audit.schema.policy import Limits
from quail_audit.verdict.recovery import Role


def around(mean: float, samples: int = 100, spread: float = 2.0) -> np.ndarray:
    """Scores of exactly this mean."""
    offsets = np.linspace(-spread, spread, samples)
    return mean + np.random.default_rng(int(mean * 10) % 1000).permutation(offsets)


def measure(
    original: float, unlearned: float, rounded: float, retrain: float | None = None, samples: int = 100
) -> Recovery:
    scores: dict[Role, np.ndarray] = {
        "original/full": around(original, samples),
        "unlearned/full": around(unlearned, samples),
        "unlearned/quantized": around(rounded, samples),
    }
    if retrain is not None:
        scores["retrain/full"] = around(retrain, samples)
    return recovery("verbmem_forget", scores, seed=0)


def test_the_confined_checkpoint_fails() -> None:
    found = measure(95.1, 20.8, 95.1, retrain=46.1)
    assert found.outcome == "recovered"
    assert found.percent == pytest.approx(100.0)
    assert found.low is not None
    assert found.low > 90.0
    assert (found.floor, found.floor_arm) == (pytest.approx(46.1), "retrain/full")


def test_the_repaired_checkpoint_passes_below_its_reference() -> None:
    found = measure(95.1, 2.4, 19.0, retrain=46.1)
    assert (found.outcome, found.percent, found.low, found.high) == ("held", 0.0, 0.0, 0.0)
    assert (found.floor, found.floor_arm) == (pytest.approx(46.1), "retrain/full")


def test_the_same_without_a_reference_counts_from_what_it_knew() -> None:
    found = measure(95.1, 2.4, 19.0)
    assert found.percent == pytest.approx(100 * (19.0 - 2.4) / (95.1 - 2.4))
    assert found.outcome == "recovered"
    assert found.floor_arm == "unlearned/full"


def test_the_floor_is_the_higher_of_the_two() -> None:
    found = measure(90.0, 50.0, 60.0, retrain=30.0)
    assert found.percent == pytest.approx(25.0)
    assert (found.floor, found.floor_arm) == (pytest.approx(50.0), "unlearned/full")


def test_not_forgotten() -> None:
    for retrain in (None, 30.0):
        found = measure(80.0, 76.0, 80.0, retrain)
        assert found.outcome == "not forgotten"
        assert found.percent is found.low is found.high is None


def test_uninformative_where_the_original_knew_no_more_than_the_reference() -> None:
    assert measure(34.0, 2.0, 30.0, retrain=30.0).outcome == "uninformative"
    # even where nothing was forgotten: what the original does not know cannot be forgotten
    assert measure(34.0, 34.0, 34.0, retrain=30.0).outcome == "uninformative"
    assert measure(3.0, 1.0, 3.0).outcome == "uninformative"


def test_without_a_reference_an_unforgotten_set_is_never_uninformative() -> None:
    assert measure(80.0, 79.0, 80.0).outcome == "not forgotten"


def test_undecided_where_the_interval_straddles_the_limit() -> None:
    found = measure(90.0, 10.0, 18.0)
    assert found.percent == pytest.approx(10.0)
    assert found.outcome == "undecided"


def test_a_single_sample_decides_nothing() -> None:
    found = measure(90.0, 10.0, 90.0, samples=1)
    assert found.outcome == "undecided"
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.0
    assert found.high >= 100.0


def test_the_interval_is_paired() -> None:
    shared = around(40.0, spread=40.0)
    scores: dict[Role, np.ndarray] = {
        "original/full": shared + 50.0,
        "unlearned/full": shared,
        "unlearned/quantized": shared + 25.0,
    }
    found = recovery("knowmem_forget", scores, seed=0)
    assert (found.percent, found.low, found.high) == pytest.approx((50.0, 50.0, 50.0))


def test_resamples_without_a_difference_widen_the_interval_and_break_nothing() -> None:
    known = np.zeros(100)
    known[:6] = 100.0  # many resamples draw few of the six samples the original knows
    scores: dict[Role, np.ndarray] = {
        "original/full": known,
        "unlearned/full": np.zeros(100),
        "unlearned/quantized": np.roll(known, 3),
    }
    found = recovery("verbmem_forget", scores, seed=0)
    assert found.percent == pytest.approx(100.0)
    assert found.high is not None
    assert np.isfinite(found.high)
    assert found.high > 200.0


@given(
    means=st.tuples(*[st.floats(0.0, 100.0)] * 4),
    with_reference=st.booleans(),
    limit=st.floats(0.0, 100.0),
    seed=st.integers(0, 9),
)
def test_every_outcome_follows_the_rules(
    means: tuple[float, float, float, float], with_reference: bool, limit: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    roles: list[Role] = ["original/full", "unlearned/full", "unlearned/quantized", "retrain/full"]
    scores = {
        role: np.clip(mean + generator.normal(0, 5, 8), 0, 100)
        for role, mean in zip(roles, means, strict=True)
        if with_reference or role != "retrain/full"
    }
    found = recovery("verbmem_forget", scores, Limits(max_recovery_percent=limit), seed=seed)
    o, u, q = (scores[role].mean() for role in roles[:3])
    r = scores["retrain/full"].mean() if with_reference else 0.0
    if o - r < 5.0:
        assert found.outcome == "uninformative"
    elif o - u < 5.0:
        assert found.outcome == "not forgotten"
    else:
        assert found.percent == pytest.approx(100 * max(0.0, q - max(u, r)) / (o - max(u, r)))
        assert found.low is not None
        assert found.high is not None
        assert 0.0 <= found.low <= found.high
        expected = "recovered" if found.low > limit else "held" if found.high <= limit else "undecided"
        assert found.outcome == expected


def test_privleak_is_the_share_of_the_way_back() -> None:
    generator = np.random.default_rng(0)
    holdout = generator.normal(0.0, 1.0, 60)
    forget = {
        "original/full": generator.normal(3.0, 1.0, 50),
        "unlearned/full": generator.normal(0.0, 1.0, 50),
        "unlearned/quantized": generator.normal(1.0, 1.0, 50),
    }
    values = {role: membership_values(scores, holdout) for role, scores in forget.items()}
    found = recovery("privleak", values, seed=0)  # type: ignore[arg-type]  # the keys are roles
    o, u, q = (float(auc(scores, holdout)) for scores in forget.values())
    assert found.outcome == "reported only"
    assert found.percent == pytest.approx(100 * (q - u) / (o - u))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.percent < found.high
    same = dict.fromkeys(values, values["original/full"])
    assert recovery("privleak", same, seed=0) == Recovery(outcome="reported only")  # type: ignore[arg-type]


def test_recovery_of_another_metric_is_a_defect() -> None:
    with pytest.raises(ValueError, match="nll_forget"):
        recovery("nll_forget", {}, seed=0)


def test_the_rules_meet_without_gaps() -> None:
    outcomes = {
        measure(*means, retrain=retrain).outcome
        for means in itertools.product((2.0, 50.0, 90.0), repeat=3)
        for retrain in (None, 1.0, 60.0)
    }
    assert outcomes == {"uninformative", "not forgotten", "recovered", "held"}


def as_stored(**means: float) -> Recovery:
    """Recovery where the unlearned checkpoint is only given quantized."""
    names: dict[str, Role] = {"original": "original/full", "stored": "unlearned/quantized", "retrain": "retrain/full"}
    scores = {names[name]: around(mean) for name, mean in means.items()}
    return recovery("verbmem_forget", scores, seed=0)


def test_a_stored_checkpoint_is_held_against_the_reference_alone() -> None:
    found = as_stored(original=96.0, stored=66.0, retrain=46.0)
    assert found.percent == pytest.approx(100 * (66 - 46) / (96 - 46))
    assert (found.outcome, found.floor, found.floor_arm) == ("recovered", pytest.approx(46.0), "retrain/full")
    assert as_stored(original=96.0, stored=40.0, retrain=46.0).outcome == "held"


def test_without_a_reference_what_came_back_of_a_stored_checkpoint_cannot_be_told() -> None:
    assert as_stored(original=96.0, stored=66.0) == Recovery(outcome="no floor")
    assert as_stored(original=96.0, stored=90.9) == Recovery(outcome="no floor")


def test_a_stored_checkpoint_near_the_original_has_not_forgotten() -> None:
    assert as_stored(original=96.0, stored=91.1).outcome == "not forgotten"
    found = as_stored(original=96.0, stored=95.0, retrain=46.0)
    assert (found.outcome, found.floor) == ("not forgotten", pytest.approx(46.0))


def test_a_stored_checkpoint_of_which_there_was_nothing_to_forget_is_uninformative() -> None:
    assert as_stored(original=49.0, stored=20.0, retrain=46.0).outcome == "uninformative"
    assert as_stored(original=3.0, stored=3.0).outcome == "uninformative"


def test_an_unlearned_model_that_nothing_rounds_has_no_recovery() -> None:
    scores: dict[Role, np.ndarray] = {"original/full": around(96.0), "unlearned/full": around(20.0)}
    found = recovery("verbmem_forget", scores, seed=0)
    assert (found.outcome, found.floor, found.floor_arm) == ("no rounded arm", pytest.approx(20.0), "unlearned/full")
    scores["unlearned/full"] = around(95.0)
    assert recovery("verbmem_forget", scores, seed=0).outcome == "not forgotten"
