"""Judge if what was measured is what a deployment rounds: what was left out may hold the unlearning."""

from collections.abc import Mapping, Sequence

from quail_audit.schema.figures import CheckpointFacts, LayerStatistics, OtherTensors, Reason, RuleOutcome
from quail_audit.schema.policy import KNOWN_LAYERS, MEASURED_SHARE
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


def known_layers_check(scheme: str, checkpoints: Mapping[str, CheckpointFacts]) -> Check | None:
    """Return an inconclusive check if a side's layers were found by names and shapes only; None if a class has them.

    Args:
        scheme: of the layers.
        checkpoints: "original", "unlearned" -> what was found of it.
    """
    guessed = [side for side in ("original", "unlearned") if side in checkpoints and not checkpoints[side].architecture]
    if not guessed:
        return None
    text = (
        f"transformers knows no model of the {' and the '.join(guessed)}, so the layers were found by names and "
        "shapes, and a deployment may round others; give it the config.json of a model that transformers has, install "
        f"a transformers that has it, or compare the layers with those that are rounded in use and waive {KNOWN_LAYERS}"
    )
    rule = RuleOutcome(rule=KNOWN_LAYERS, scheme=scheme, figure="", standing="not judged", message=text)
    return Check(rule, Reason(code="layers_guessed", message=text))
