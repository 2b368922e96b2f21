"""Compute how well a score tells texts that were never trained on from those to forget: the AUC, x 100.

The higher score wins, and every score is the higher the better a text is known. So, as in MUSE's code, the AUC is near
0 if the forget set is memorised, and 50 if the two sets look alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quail_audit.engine.forgetting.bootstrap import interval
from quail_audit.schema.figures import Score

F64 = npt.NDArray[np.float64]


def membership_values(of_forget: F64, of_holdout: F64) -> F64:
    """Return Measured.values of the two sets' scores: float64 [forget + holdout, 2], the score, and 1 for holdout."""
    is_holdout = np.repeat([0.0, 1.0], [len(of_forget), len(of_holdout)])
    return np.stack((np.concatenate((of_forget, of_holdout)), is_holdout), axis=1)


def auc(of_forget: F64, of_holdout: F64, *, axis: int = -1) -> F64:
    """Return AUC x 100 along the last axis of scores [..., forget] and [..., holdout]; ties count half.

    It goes by ranks (Mann and Whitney, 1947), so that it runs over many resamples at once.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate((of_forget, of_holdout), axis=axis), axis=axis)
    holdout_ranks = ranks[..., of_forget.shape[axis] :].sum(axis=axis)
    pairs = of_forget.shape[axis] * of_holdout.shape[axis]
    least = of_holdout.shape[axis] * (of_holdout.shape[axis] + 1) / 2
    found: F64 = 100.0 * (holdout_ranks - least) / pairs
    return found


def auc_score(of_forget: F64, of_holdout: F64, seed: int) -> Score:
    """Return the AUC with its interval, from the scores of both sets, the higher the better known."""
    from sklearn.metrics import roc_auc_score  # 1 s to import

    values = membership_values(of_forget, of_holdout)
    point = 100.0 * float(roc_auc_score(values[:, 1], values[:, 0]))
    low, high = interval((of_forget, of_holdout), auc, seed=seed)
    return Score(mean=point, low=low, high=high, samples=len(values))


def holdout_wins(of_forget: F64 | float, of_holdout: F64 | float) -> F64:
    """Return 1 if the holdout text scores higher, a half at a tie."""
    found: F64 = np.greater(of_holdout, of_forget) + 0.5 * np.equal(of_holdout, of_forget)
    return found
