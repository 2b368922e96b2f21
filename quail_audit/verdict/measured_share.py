"""Judge how much of what changed in the blocks was measured: what was not may hold the unlearning."""

from collections.abc import Sequence

from quail_audit.schema.figures import LayerStatistics, OtherTensors, Reason, RuleOutcome
from quail_audit.schema.policy import MEASURED_SHARE
from quail_audit.verdict.rules import Check

LEAST_SHARE = 0.99  # of the weights of the blocks' matrices that differ


def measured_share_check(scheme: str, layers: Sequence[LayerStatistics], others: OtherTensors | None) -> Check | None:
    """Return an inconclusive check if matrices changed that no scheme rounds here; None if nearly all was measured."""
    if others is None or not others.matrix_weights_changed:
        return None
    changed = sum(
        layer.weights * (1.0 - layer.identical) if layer.identical is not None else layer.weights for layer in layers
    )
    share = changed / (changed + others.matrix_weights_changed)
    if share >= LEAST_SHARE:
        return None
    names = ", ".join(others.matrices[:3]) + (", …" if len(others.matrices) > 3 else "")
    text = (
        f"only {100 * share:.0f} % of the weights that changed in the blocks' matrices were measured and rounded; "
        f"the unlearning may lie in the others, which a deployment may round: {names}"
    )
    rule = RuleOutcome(
        rule=MEASURED_SHARE,
        scheme=scheme,
        figure="measured share",
        value=share,
        at_least=LEAST_SHARE,
        standing="not judged",
        message=text,
    )
    return Check(rule, Reason(code="not_all_measured", message=text))
