"""From layers, recoveries and a policy to a verdict. Pure: reads no file and measures nothing."""

from collections.abc import Mapping, Sequence

from quail_audit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from quail_audit.events import LayerStatistics, Outcome, Reason, Recovery, Verdict
from quail_audit.policy import Policy

EXIT_CODE_OF: Mapping[Outcome, int] = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}


def judge(
    layers: Mapping[str, Sequence[LayerStatistics]],
    recoveries: Mapping[str, Mapping[str, Recovery]],
    policy: Policy,
) -> Verdict:
    """The verdict of a whole audit.

    With forgetting measured, it rests on the recoveries: one metric that came back at one scheme fails the release.
    Without (weights only), it rests on the layers.

    Args:
        layers: scheme -> its layers.
        recoveries: scheme -> metric -> recovery; empty in a weights-only audit.
        policy: the limits.
    """
    measured = [(s, m, r) for s, metrics in recoveries.items() for m, r in metrics.items()]
    reasons = _judge_recoveries(measured, policy) if measured else _judge_layers(layers)
    return Verdict(outcome=_outcome([code for code, _ in reasons]), reasons=tuple(reason for _, reason in reasons))


def _judge_recoveries(measured: Sequence[tuple[str, str, Recovery]], policy: Policy) -> list[tuple[Outcome, Reason]]:
    limit = f"the limit is {policy.max_recovery_percent:g} %"
    not_forgotten = {m for _, m, r in measured if r.outcome == "not forgotten"}
    reasons: list[tuple[Outcome, Reason]] = [("fail", _not_forgotten(m, policy)) for m in sorted(not_forgotten)]
    for scheme, metric, recovery in measured:
        match recovery.outcome:
            case "recovered":
                reasons.append(
                    ("fail", _recovery_reason("recovered", f"comes back at {scheme}", metric, recovery, limit))
                )
            case "held":
                reasons.append(
                    ("pass", _recovery_reason("held", f"stays forgotten at {scheme}", metric, recovery, limit))
                )
            case "undecided":
                text = f"may come back at {scheme}: too few samples to tell"
                reasons.append(("inconclusive", _recovery_reason("undecided", text, metric, recovery, limit)))
    if not reasons:
        text = "no forget metric is informative: the original knew no more of the forget set than the floor"
        if all(r.outcome == "reported only" for _, _, r in measured):
            text = "no metric that decides was measured: give verbmem or knowmem data"
        reasons.append(("inconclusive", Reason(code="uninformative", message=text)))
    return sorted(reasons, key=lambda reason: ("fail", "inconclusive", "pass").index(reason[0]))


def _not_forgotten(metric: str, policy: Policy) -> Reason:
    text = (
        f"{metric}: the forget set is still known in full precision "
        f"(less than {policy.informative_points:g} points below the original)"
    )
    return Reason(code="not_forgotten", message=text)


def _recovery_reason(code: str, text: str, metric: str, recovery: Recovery, limit: str) -> Reason:
    interval = f"recovery {recovery.percent:.0f} %, 95 % interval {recovery.low:.0f} to {recovery.high:.0f} %"
    return Reason(code=code, message=f"{metric} {text} ({interval}; {limit})")


def _judge_layers(layers: Mapping[str, Sequence[LayerStatistics]]) -> list[tuple[Outcome, Reason]]:
    reasons: list[tuple[Outcome, Reason]] = []
    for scheme, measured in layers.items():
        at_risk = tuple(layer.name for layer in measured if layer.at_risk)
        changed = sum(layer.state != "untouched" for layer in measured)
        if at_risk:
            text = f"{scheme}: rounding may undo the unlearning in {len(at_risk)} of {len(measured)} layers"
            reasons.append(("fail", Reason(code="layers_at_risk", message=text, layers=at_risk)))
        elif changed:
            text = f"{scheme}: rounding carries the update in all {changed} layers that changed"
            reasons.append(("pass", Reason(code="layers_carried", message=text)))
        else:
            text = f"{scheme}: no layer that is rounded differs between the two checkpoints"
            reasons.append(("inconclusive", Reason(code="nothing_changed", message=text)))
    return reasons


def _outcome(parts: Sequence[Outcome]) -> Outcome:
    """One failure fails; a pass needs every part that has a say to pass."""
    if "fail" in parts:
        return "fail"
    return "inconclusive" if "inconclusive" in parts else "pass"
