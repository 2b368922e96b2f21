"""A pair of which much was not measured, or only guessed: it never passes, and what fails still fails."""

import pytest

from quail_audit.schema.figures import CheckpointFacts, Knowledge, LayerStatistics, OtherTensors
from quail_audit.schema.policy import Policy
from quail_audit.verdict.checks import checks_of, judgement_of
from quail_audit.verdict.measured_share import measured_share_check
from tests.support.judged_figures import HOLDS, NOT_FORGOTTEN, TODAY
from tests.support.small_run import FACTS, layer


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
    [(HOLDS, 0, "pass"), (HOLDS, 1000, "inconclusive"), (NOT_FORGOTTEN, 1000, "fail")],
)
def test_verdicts(recovery: Knowledge, changed: int, outcome: str) -> None:
    checks = checks_of(
        {"nf4": ()},
        {"nf4": {"verbmem_forget": recovery}},
        Policy(),
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


CARRIED = layer(state="carried", survival=1.0, overlap=0.0, at_risk=False)
UNKNOWN = FACTS.model_copy(update={"architecture": None})
WAIVER = {"rule": "known layers", "reason": "compared by hand", "owner": "release@example.org", "expires": TODAY}


@pytest.mark.parametrize(
    ("measured", "original", "unlearned", "policy", "outcome", "said"),
    [
        (CARRIED, FACTS, FACTS, {}, "pass", ""),
        (CARRIED, UNKNOWN, UNKNOWN, {}, "inconclusive", "no model of the original and the unlearned, so"),
        (CARRIED, FACTS, UNKNOWN, {}, "inconclusive", "no model of the unlearned, so"),
        (CARRIED, UNKNOWN, FACTS, {}, "inconclusive", "no model of the original, so"),
        (CARRIED, UNKNOWN, UNKNOWN, {"waivers": [WAIVER]}, "pass", ""),
        (layer(), UNKNOWN, UNKNOWN, {}, "fail", "no model of the original and"),
    ],
)
def test_layers_that_were_guessed(
    measured: LayerStatistics,
    original: CheckpointFacts,
    unlearned: CheckpointFacts,
    policy: dict[str, object],
    outcome: str,
    said: str,
) -> None:
    asked = Policy.model_validate({"limits": {"accept_weights_only": True}, **policy})
    checks = checks_of(
        {"nf4": (measured,)},
        {},
        asked,
        scores={},
        samples={},
        today=TODAY,
        checkpoints={"original": original, "unlearned": unlearned, "retrain": UNKNOWN},
    )
    found = judgement_of(checks, asked, TODAY)
    assert found.overall.outcome == found.schemes["nf4"].outcome == outcome
    reasons = [reason.message for reason in found.overall.reasons if reason.code == "layers_guessed"]
    assert len(reasons) == bool(said)
    assert all(said in reason and "config.json" in reason for reason in reasons)
