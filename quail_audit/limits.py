"""What figures come to under limits: the state of a layer, the outcome of a recovery. DESIGN section 2's definitions.

For those who measure, and for who judges again by other limits. Pure. Not here: the limits (policy.py), and what
states and outcomes mean for a release (verdict.py).
"""

from typing import Literal

from quail_audit.schema.policy import Limits


def state_of_update(
    survival: float | None, overlap: float | None, limits: Limits
) -> Literal["erased", "drowned", "carried"]:
    """The state of a layer that changed; a figure that is not known says nothing against it."""
    if survival is not None and survival < limits.survival_at_risk:
        return "erased"
    return "drowned" if overlap is not None and overlap >= limits.overlap_at_risk else "carried"


def outcome_of_recovery(
    low: float, high: float, samples: int, limit_percent: float
) -> Literal["recovered", "held", "undecided"]:
    """What a recovery's 95 % interval says; a single sample leaves it undecided, as it has no interval.

    Args:
        low, high: of the interval, in per cent.
        samples: that it is over.
        limit_percent: the policy's.
    """
    if samples > 1 and low > limit_percent:
        return "recovered"
    return "held" if samples > 1 and high <= limit_percent else "undecided"
