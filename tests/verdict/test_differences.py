"""Pairs that differ beside their weights: no such pair passes, and what changes nothing decides nothing."""

import pytest

from quail_audit.schema.figures import Difference, Knowledge
from quail_audit.schema.policy import Policy
from quail_audit.verdict.checks import checks_of, judgement_of
from tests.support.judged_figures import HOLDS, NOT_FORGOTTEN, TODAY, UNDECIDED

TOKENS = Difference(kind="tokenizer", name="tokens", original="[1]", other="[2]", decides=True)
TEMPLATE = Difference(kind="tokenizer", name="chat template", original="a", other="b")
OF_REFERENCE = TOKENS.model_copy(update={"side": "retrain", "decides": False})


def judged(recovery: Knowledge, *differences: Difference, identical: bool = False, policy: Policy = Policy()) -> object:  # noqa: B008
    checks = checks_of(
        {"nf4": (), "fp4": ()},
        {scheme: {"verbmem_forget": recovery} for scheme in ("nf4", "fp4")},
        policy,
        scores={},
        samples={},
        today=TODAY,
        differences=differences,
        are_weights_identical=identical,
    )
    return judgement_of(checks, policy, TODAY)


@pytest.mark.parametrize(
    ("recovery", "differences", "identical", "outcome", "is_named"),
    [
        (HOLDS, (), False, "pass", False),
        (HOLDS, (TEMPLATE, OF_REFERENCE), False, "pass", False),
        (HOLDS, (TOKENS, TEMPLATE), False, "inconclusive", True),
        (HOLDS, (TEMPLATE,), True, "inconclusive", True),
        (HOLDS, (TOKENS,), True, "inconclusive", True),
        (HOLDS, (), True, "inconclusive", True),
        (UNDECIDED, (), True, "inconclusive", True),
        (NOT_FORGOTTEN, (), True, "fail", False),
        (NOT_FORGOTTEN, (TOKENS,), True, "fail", True),
        (NOT_FORGOTTEN, (TOKENS,), False, "fail", True),
    ],
)
def test_verdicts(
    recovery: Knowledge, differences: tuple[Difference, ...], identical: bool, outcome: str, is_named: bool
) -> None:
    found = judged(recovery, *differences, identical=identical)
    assert found.overall.outcome == outcome  # type: ignore[attr-defined]
    assert {each.outcome for each in found.schemes.values()} == {outcome}  # type: ignore[attr-defined]
    named = [each for each in found.overall.reasons if each.code == "differs_in_more_than_weights"]  # type: ignore[attr-defined]
    assert len(named) == is_named  # said once, whatever the number of schemes
    for each in named:
        assert ("every tensor is the same" in each.message) == identical
        assert all(difference.name in each.message for difference in differences if difference.decides)


def test_a_waiver_lets_a_difference_pass_that_somebody_answers_for() -> None:
    waiver = {"rule": "differences", "reason": "deployed so", "owner": "ana", "expires": "2999-01-01"}
    policy = Policy.model_validate({"waivers": [waiver]})
    assert judged(HOLDS, TOKENS, policy=policy).overall.outcome == "pass"  # type: ignore[attr-defined]
