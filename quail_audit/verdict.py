"""From layers, recoveries and a policy to verdicts: one of each scheme, and one of the release. Pure: reads no file and
measures nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quail_audit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from quail_audit.events import LayerStatistics, Outcome, Reason, Recovery, SchemeFailed, Verdict
from quail_audit.policy import Policy

EXIT_CODE_OF: Mapping[Outcome, int] = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}

_Judged = list[tuple[Outcome, Reason]]

# Recoveries that cannot be told, and why. Only checkpoints that are quantized already have them.
_UNTOLD: Mapping[str, str] = {
    "no floor": "how much came back cannot be told of a checkpoint that is quantized already, unless the unlearned "
    "model in full precision or a retrained reference (--retrain) says what it knew before",
    "no rounded arm": "the unlearned checkpoint is in full precision, and no scheme rounds it just as the original is "
    "stored; give the unlearned one as it will be deployed",
}


@dataclass(frozen=True)
class Judgement:
    """What an audit comes to.

    Attributes:
        overall: of the release: it passes where every scheme asked for was measured and passes.
        schemes: of each scheme that was measured.
    """

    overall: Verdict
    schemes: dict[str, Verdict]


def judge(
    layers: Mapping[str, Sequence[LayerStatistics]],
    recoveries: Mapping[str, Mapping[str, Recovery]],
    policy: Policy,
    unmeasured: Sequence[SchemeFailed] = (),
    *,
    is_unlearned_stored: bool = False,
) -> Judgement:
    """The verdicts of a whole audit.

    With forgetting measured, they rest on the recoveries: one metric that came back at one scheme fails the release.
    Without (weights only), they rest on the layers. A scheme that could not be measured leaves the release
    inconclusive, unless another one fails it.

    Args:
        layers: scheme -> its layers, of the schemes that were measured.
        recoveries: scheme -> metric -> recovery; empty in a weights-only audit.
        policy: the limits.
        unmeasured: the schemes that could not be measured.
        is_unlearned_stored: the unlearned checkpoint is quantized already, and was measured as it is stored.
    """
    judged: dict[str, _Judged] = {}
    for scheme in dict.fromkeys([*layers, *recoveries]):
        measured = recoveries.get(scheme, {})
        judged[scheme] = (
            _judge_recoveries(scheme, measured, policy, is_unlearned_stored)
            if measured
            else _judge_layers(scheme, layers.get(scheme, ()))
        )
    every = dict.fromkeys(part for parts in judged.values() for part in parts)  # what holds for all is said once
    return Judgement(
        overall=_verdict([*every, *(("inconclusive", _not_measured(failed)) for failed in unmeasured)]),
        schemes={scheme: _verdict(parts) for scheme, parts in judged.items()},
    )


def exit_code(verdict: Verdict, unmeasured: Sequence[SchemeFailed]) -> int:
    """The exit code of a finished audit: what is worst of fail, a scheme not measured, inconclusive, pass.

    A scheme that could not be measured gives the code of its own error: 4 where the machine lacks something, 3 where
    the input does.
    """
    if verdict.outcome != "fail" and unmeasured:
        return max(failed.exit_code for failed in unmeasured)
    return EXIT_CODE_OF[verdict.outcome]


def _verdict(judged: _Judged) -> Verdict:
    """The worst reasons first."""
    ordered = sorted(judged, key=lambda part: ("fail", "inconclusive", "pass").index(part[0]))
    return Verdict(
        outcome=_outcome([outcome for outcome, _ in ordered]), reasons=tuple(reason for _, reason in ordered)
    )


def _judge_recoveries(
    scheme: str, measured: Mapping[str, Recovery], policy: Policy, is_unlearned_stored: bool
) -> _Judged:
    limit = f"the limit is {policy.max_recovery_percent:g} %"
    texts = {
        "recovered": f"comes back at {scheme}",
        "held": f"stays forgotten at {scheme}",
        "undecided": f"may come back at {scheme}: too few samples to tell",
    }
    outcomes: dict[str, Outcome] = {"recovered": "fail", "held": "pass", "undecided": "inconclusive"}
    reasons: _Judged = []
    for metric, recovery in sorted(measured.items()):
        if recovery.outcome == "not forgotten":
            reasons.append(("fail", _not_forgotten(metric, policy, scheme if is_unlearned_stored else None)))
        elif recovery.outcome in _UNTOLD:
            reason = Reason(code=recovery.outcome.replace(" ", "_"), message=f"{metric}: {_UNTOLD[recovery.outcome]}")
            reasons.append(("inconclusive", reason))
        elif recovery.outcome in outcomes:
            text = f"{metric} {texts[recovery.outcome]} ({_interval(recovery)}; {limit})"
            reason = Reason(code=recovery.outcome, message=text, scheme=scheme)
            reasons.append((outcomes[recovery.outcome], reason))
    if not reasons:
        text = "no forget metric is informative: the original knew no more of the forget set than the floor"
        if all(recovery.outcome == "reported only" for recovery in measured.values()):
            text = "no metric that decides was measured: give verbmem, knowmem or labelled forget data"
        reasons.append(("inconclusive", Reason(code="uninformative", message=text)))
    return reasons


def _not_forgotten(metric: str, policy: Policy, stored_as: str | None) -> Reason:
    known = "in full precision" if stored_as is None else f"to the unlearned checkpoint as it is stored ({stored_as})"
    text = (
        f"{metric}: the forget set is still known {known} "
        f"(less than {policy.informative_points:g} points below the original)"
    )
    return Reason(code="not_forgotten", message=text)


def _interval(recovery: Recovery) -> str:
    return f"recovery {recovery.percent:.0f} %, 95 % interval {recovery.low:.0f} to {recovery.high:.0f} %"


def _not_measured(failed: SchemeFailed) -> Reason:
    text = f"{failed.scheme} could not be measured: {failed.message}"
    return Reason(code="not_measured", message=text, scheme=failed.scheme)


def _judge_layers(scheme: str, measured: Sequence[LayerStatistics]) -> _Judged:
    at_risk = tuple(layer.name for layer in measured if layer.at_risk)
    changed = sum(layer.state != "untouched" for layer in measured)
    if at_risk:
        text = f"{scheme}: rounding may undo the unlearning in {len(at_risk)} of {len(measured)} layers"
        return [("fail", Reason(code="layers_at_risk", message=text, layers=at_risk, scheme=scheme))]
    untold = sum(layer.state is None for layer in measured)
    if untold:
        text = (
            f"{scheme}: {untold} of {len(measured)} layers have no codes to compare, so that nothing can be told of "
            "them by the weights alone; give --data"
        )
        return [("inconclusive", Reason(code="not_comparable", message=text, scheme=scheme))]
    if changed and any(layer.state == "carried" and layer.survival is None for layer in measured):
        text = (
            f"{scheme}: the stored codes differ in {changed} of {len(measured)} layers; whether they carry the whole "
            "update cannot be told without the weights in full precision; give --data"
        )
        return [("inconclusive", Reason(code="codes_changed", message=text, scheme=scheme))]
    if changed:
        text = f"{scheme}: rounding carries the update in all {changed} layers that changed"
        return [("pass", Reason(code="layers_carried", message=text, scheme=scheme))]
    text = f"{scheme}: no layer that is rounded differs between the two checkpoints"
    return [("inconclusive", Reason(code="nothing_changed", message=text, scheme=scheme))]


def _outcome(parts: Sequence[Outcome]) -> Outcome:
    """One failure fails; a pass needs every part that has a say to pass."""
    if "fail" in parts:
        return "fail"
    return "inconclusive" if "inconclusive" in parts else "pass"
