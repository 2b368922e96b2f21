"""A pair of which much that changed was not measured: it never passes, and what fails still fails."""

import pytest

from quail_audit.schema.figures import OtherTensors, Recovery
from quail_audit.schema.policy import Policy
from quail_audit.verdict.checks import checks_of, judgement_of
from quail_audit.verdict.measured_share import measured_share_check
from tests.support.judged_figures import HELD, NOT_FORGOTTEN, TODAY


def others(changed: int, weights: int = 1000) -> OtherTensors:
    return OtherTensors(
        count=1,
        weights=weights,
        identical=0 if changed else 1,
        changed=(),
        weights_changed=changed,
        matrices=("model.layers.0.mix.q",),
        matrix_weights=weights,
        matrix_weights_changed=changed,
    )


@pytest.mark.parametrize(
    ("recovery", "changed", "outcome"),
    [(HELD, 0, "pass"), (HELD, 1000, "inconclusive"), (NOT_FORGOTTEN, 1000, "fail")],
)
def test_verdicts(recovery: Recovery, changed: int, outcome: str) -> None:
    checks = checks_of(
        {"nf4": ()},
        {"nf4": {"verbmem_forget": recovery}},
        Policy(),
        is_unlearned_stored=False,
        scores={},
        samples={},
        today=TODAY,
        others=others(changed),
    )
    found = judgement_of(checks, Policy(), TODAY)
    assert found.overall.outcome == outcome
    assert any(reason.code == "not_all_measured" for reason in found.overall.reasons) == bool(changed)


def test_older_reports_do_not_know() -> None:
    assert measured_share_check("nf4", (), None) is None
