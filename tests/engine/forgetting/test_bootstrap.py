"""Intervals: against a plain bootstrap, and how often they hold the truth."""

import numpy as np
import pytest

from quail_audit.engine.forgetting.bootstrap import interval, mean_score


def test_agrees_with_a_plain_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(10.0, size=40)
    generator = np.random.default_rng(2)
    means = [values[generator.integers(0, 40, 40)].mean() for _ in range(20_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    score = mean_score(values, seed=0)
    assert score.mean == pytest.approx(values.mean())
    assert score.samples == 40
    # two bootstraps of so many resamples differ by some hundredths of the standard error, which is 1.6 here
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.12)


def test_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        score = mean_score(generator.normal(50.0, 20.0, size=60), seed=seed)
        held += score.low <= 50.0 <= score.high
    # a percentile interval of 60 samples holds it in about 94 of 100; three standard errors of 200 trials are 5 points
    assert 0.89 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(30.0)
    assert mean_score(values, seed=5) == mean_score(values, seed=5)
    assert mean_score(values, seed=5) != mean_score(values, seed=6)


def test_paired_samples_are_drawn_together() -> None:
    values = np.random.default_rng(4).normal(0.0, 100.0, size=50)

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return first.mean(axis=axis) - second.mean(axis=axis)

    low, high = interval([values + 3.0, values], difference, seed=0, paired=True)
    assert (low, high) == pytest.approx((3.0, 3.0))
    low, high = interval([values + 3.0, values], difference, seed=0)
    assert high - low > 20.0


def test_one_sample_is_its_own_interval() -> None:
    assert mean_score(np.array([7.5]), seed=0).model_dump() == {"mean": 7.5, "low": 7.5, "high": 7.5, "samples": 1}


def test_equal_samples_are_no_error() -> None:
    score = mean_score(np.full(9, 100.0), seed=0)
    assert (score.low, score.high) == (100.0, 100.0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quail_audit.engine.forgetting.bootstrap.BATCH_VALUES", 1000)
    largest = 0

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        nonlocal largest
        largest = max(largest, values.size)
        return values.mean(axis=axis)

    interval([np.arange(100.0)], mean, seed=0)
    assert largest <= 1000
