"""Make pairs of weight matrices, and compare their sums."""

import numpy as np
import pytest
import torch

from quail_audit.engine.weights.statistics import median_of_counts
from quail_audit.engine.weights.sums import PairSums

MEDIAN_ERROR = 0.002  # what table_kernel.py promises


def pair(shape: tuple[int, int], update: float, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights like a model's, and a copy with a share of them moved."""
    torch.manual_seed(seed)
    original = torch.randn(shape) * 0.02
    return original, original + torch.randn(shape) * update * (torch.rand(shape) < share)


def assert_equal_sums(ours: PairSums, theirs: PairSums) -> None:
    for exact in ("weights", "identical", "same_code", "nonfinite_original", "nonfinite_unlearned"):
        assert getattr(ours, exact) == getattr(theirs, exact), exact
    for close in ("dot", "update_squared", "rounded_squared", "update_max"):
        assert getattr(ours, close) == pytest.approx(getattr(theirs, close), rel=1e-5), close
    assert np.array_equal(ours.transitions, theirs.transitions)
    assert ours.updates.sum() == theirs.updates.sum()
    for counts in ("updates", "ratios"):  # a magnitude at a bin's edge may fall on either side
        medians = [median_of_counts(getattr(sums, counts)) for sums in (ours, theirs)]
        assert medians[0] == pytest.approx(medians[1], rel=2 * MEDIAN_ERROR)
