"""Membership: the share of the way back from the floor's AUC to the original's."""

import numpy as np
import pytest

from quail_audit.engine.forgetting.membership import membership_knowledge
from quail_audit.engine.forgetting.metrics.auc import auc, membership_values
from quail_audit.schema.figures import Knowledge
from quail_audit.verdict.roles import Arms, arms_at

GENERATOR = np.random.default_rng(0)
HOLDOUT = GENERATOR.normal(0.0, 1.0, 60)
FORGET = {
    "original/full": GENERATOR.normal(3.0, 1.0, 50),
    "unlearned/full": GENERATOR.normal(0.0, 1.0, 50),
    "unlearned/nf4": GENERATOR.normal(1.0, 1.0, 50),
    "retrain/full": GENERATOR.normal(0.5, 1.0, 50),
}
VALUES = {arm: membership_values(scores, HOLDOUT) for arm, scores in FORGET.items()}


def arms(*names: str) -> Arms:
    found = arms_at(names, "nf4")
    assert found is not None
    return found


@pytest.mark.parametrize("floor", ["unlearned/full", "retrain/full"])
def test_it_is_the_share_of_the_way_back(floor: str) -> None:
    names = [arm for arm in FORGET if floor == "retrain/full" or not arm.startswith("retrain")]
    found = membership_knowledge(VALUES, arms(*names), 5.0, seed=0)
    original, deployed, start = (float(auc(FORGET[arm], HOLDOUT)) for arm in ("original/full", "unlearned/nf4", floor))
    assert (found.outcome, found.floor_arm) == ("reported only", floor)
    assert found.known is not None
    assert found.known.percent == pytest.approx(100 * (deployed - start) / (original - start))
    assert found.known.low < found.known.percent < found.known.high
    assert found.known.items == 110


def test_a_way_too_short_has_no_share() -> None:
    same = dict.fromkeys(VALUES, VALUES["original/full"])
    found = membership_knowledge(same, arms(*FORGET), 5.0, seed=0)
    assert (found.outcome, found.known) == ("reported only", None)


def test_without_a_floor_or_a_deployed_arm_there_is_none() -> None:
    for names in (("original/full", "unlearned/nf4"), ("original/full", "unlearned/full")):
        assert membership_knowledge(VALUES, arms(*names), 5.0, seed=0) == Knowledge(outcome="reported only")
