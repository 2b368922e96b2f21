"""Judge recoveries and layers by the rules that every audit has."""

from collections.abc import Iterator, Mapping, Sequence

from quail_audit.schema.figures import Difference, LayerStatistics, Reason, Recovery, RuleOutcome
from quail_audit.schema.policy import DIFFERENCES, LAYERS_AT_RISK, RECOVERY, Limits
from quail_audit.verdict.rules import Check, check_of

# Why a recovery is unknown; only for checkpoints that are already quantized.
_UNTOLD: Mapping[str, str] = {
    "no floor": "the checkpoint is already quantized, so recovery needs the unlearned model in full precision or a "
    "retrained reference (--retrain) to show what it knew before",
    "no rounded arm": "the unlearned checkpoint is in full precision, and no scheme rounds it the way the original is "
    "stored; give the unlearned checkpoint as it will be deployed",
}


def judge_recoveries(
    scheme: str, measured: Mapping[str, Recovery], limits: Limits, is_unlearned_stored: bool
) -> Iterator[Check]:
    texts = {
        "recovered": f"comes back at {scheme}",
        "held": f"stays forgotten at {scheme}",
        "undecided": f"may come back at {scheme}: too few samples to tell",
    }
    standings = {"recovered": "failed", "held": "passed", "not forgotten": "failed"}
    for metric, recovery in sorted(measured.items()):
        if recovery.outcome == "reported only":
            continue
        own = limits.metric_limits(scheme, metric)
        code = recovery.outcome.replace(" ", "_")
        about: str | None = scheme
        if recovery.outcome == "not forgotten":
            text = _not_forgotten_text(metric, own, scheme if is_unlearned_stored else None)
            about = None  # the same at every scheme
        elif recovery.outcome in _UNTOLD:
            text, about = f"{metric}: {_UNTOLD[recovery.outcome]}", None
        elif recovery.outcome == "uninformative":
            text = f"{metric} is uninformative: the original knew hardly more of the forget set than the floor"
        else:
            limit = f"the limit is {own.max_recovery_percent:g} %"
            text = f"{metric} {texts[recovery.outcome]} ({_interval_text(recovery)}; {limit})"
        rule = RuleOutcome.model_validate(
            {
                "rule": RECOVERY,
                "scheme": scheme,
                "metric": metric,
                "figure": "recovery",
                "value": recovery.percent,
                "low": recovery.low,
                "high": recovery.high,
                "at_most": own.max_recovery_percent,
                "standing": standings.get(recovery.outcome, "not judged"),
                "decides": recovery.outcome != "uninformative",
                "message": text,
            }
        )
        yield Check(rule, Reason(code=code, message=text, scheme=about))


def uninformative_check(scheme: str, measured: Mapping[str, Recovery]) -> Check:
    text = "no forget metric is informative: the original knew no more of the forget set than the floor"
    if all(recovery.outcome == "reported only" for recovery in measured.values()):
        text = "no metric that decides was measured: give verbmem, knowmem or labelled forget data"
    rule = RuleOutcome(rule=RECOVERY, scheme=scheme, figure="recovery", standing="not judged", message=text)
    return Check(rule, Reason(code="uninformative", message=text))


def differences_check(
    scheme: str, measured: Mapping[str, Recovery], differences: Sequence[Difference], *, are_weights_identical: bool
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
        if not differences and not any(each.outcome in ("held", "undecided") for each in measured.values()):
            return None  # the recoveries say that nothing was forgotten
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


def _not_forgotten_text(metric: str, limits: Limits, stored_as: str | None) -> str:
    known = "in full precision" if stored_as is None else f"to the unlearned checkpoint as it is stored ({stored_as})"
    return (
        f"{metric}: the forget set is still known {known} "
        f"(less than {limits.informative_points:g} points below the original)"
    )


def _interval_text(recovery: Recovery) -> str:
    return f"recovery {recovery.percent:.0f} %, 95 % interval {recovery.low:.0f} to {recovery.high:.0f} %"


def judge_layers(scheme: str, measured: Sequence[LayerStatistics]) -> Check:
    at_risk = tuple(layer.name for layer in measured if layer.at_risk)
    standing, code, text = _layers_standing(scheme, measured, len(at_risk))
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
