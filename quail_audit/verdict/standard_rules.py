"""Judge layers, and what the checkpoints differ in, by the rules that every audit has."""

from collections.abc import Mapping, Sequence

from quail_audit.schema.figures import Difference, Knowledge, LayerStatistics, Reason, RuleOutcome
from quail_audit.schema.policy import DIFFERENCES, LAYERS_AT_RISK
from quail_audit.verdict.rules import Check, check_of


def differences_check(
    scheme: str, measured: Mapping[str, Knowledge], differences: Sequence[Difference], *, are_weights_identical: bool
) -> Check | None:
    """Return an inconclusive check if scores do not say what the weights forgot; None if they do.

    An arm runs as its checkpoint would be deployed, so another tokenizer, configuration or end token may lower its
    scores by itself, and who puts it right has the memory back. So no such pair passes, whether or not the weights
    changed as well; what is known to come back fails all the same. Differences that change nothing of what is asked,
    computed or read decide nothing: they come with every other version of transformers.
    """
    named = [each for each in differences if each.side == "unlearned" and each.decides]
    listed = "; ".join(
        f"{each.name} ({each.original} in the original, {each.other} in the unlearned checkpoint)" for each in named[:3]
    )
    more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
    if are_weights_identical:
        if not differences and not any(each.outcome in ("holds", "undecided") for each in measured.values()):
            return None  # the scores say that nothing was forgotten
        others = "; ".join(each.name for each in differences if each.side == "unlearned" and not each.decides)
        cause = listed + more or others or "nothing that Quail compares"
        text = f"every tensor is the same on both sides, so the weights forgot nothing; what differs is: {cause}"
    elif named:
        text = (
            "the checkpoints differ in more than weights, so the scores do not say what the weights forgot: "
            f"{listed}{more}; give both the same (of tokenizers: --tokenizer original)"
        )
    else:
        return None
    rule = RuleOutcome(rule=DIFFERENCES, scheme=scheme, figure="", standing="not judged", message=text)
    return Check(rule, Reason(code="differs_in_more_than_weights", message=text))


def judge_layers(scheme: str, measured: Sequence[LayerStatistics], *, accepts_weights_only: bool) -> Check:
    """Return the check of an audit of weights alone, which never passes unless the policy accepts that."""
    at_risk = tuple(layer.name for layer in measured if layer.at_risk)
    standing, code, text = _layers_standing(scheme, measured, len(at_risk))
    if standing == "passed" and not accepts_weights_only:
        standing, code, text = (
            "not judged",
            "weights_only",
            f"{text}: no layer is at risk; forgetting was not measured, give --data",
        )
    rule = RuleOutcome.model_validate(
        {
            "rule": LAYERS_AT_RISK,
            "scheme": scheme,
            "figure": "layers at risk",
            "value": len(at_risk),
            "at_most": 0,
            "standing": standing,
            "message": text,
            "layers": at_risk,
        }
    )
    return check_of(rule, code)


def _layers_standing(scheme: str, measured: Sequence[LayerStatistics], at_risk: int) -> tuple[str, str, str]:
    """Return a scheme's standing by its layers alone, the reason's code and its text."""
    changed = sum(layer.state != "untouched" for layer in measured)
    if at_risk:
        text = f"{scheme}: rounding may undo the unlearning in {at_risk} of {len(measured)} layers"
        return "failed", "layers_at_risk", text
    untold = sum(layer.state is None for layer in measured)
    if untold:
        text = (
            f"{scheme}: {untold} of {len(measured)} layers have no codes to compare, so their weights alone decide "
            "nothing; give --data"
        )
        return "not judged", "not_comparable", text
    if changed and any(layer.state == "carried" and layer.survival is None for layer in measured):
        text = (
            f"{scheme}: the stored codes differ in {changed} of {len(measured)} layers; without the weights in "
            "full precision, it is unknown if they carry the whole update; give --data"
        )
        return "not judged", "codes_changed", text
    if changed:
        return "passed", "layers_carried", f"{scheme}: rounding carries the update in all {changed} layers that changed"
    text = f"{scheme}: no rounded layer differs between the two checkpoints"
    return "not judged", "nothing_changed", text
