"""From layers, recoveries and a policy to verdicts: one of each scheme, and one of the release. Pure: reads no file and
measures nothing. The rules of a policy besides the standard ones are judged in rules.py.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from quail_audit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import LayerStatistics, Outcome, Reason, Recovery, RuleOutcome, Score, Verdict
from quail_audit.schema.policy import LAYERS_AT_RISK, RECOVERY, Limits, Policy
from quail_audit.verdict.rules import (
    Check,
    Measured,
    check,
    expired,
    required,
    rules_at,
    rules_without_schemes,
    unused,
    waived,
)

EXIT_CODE_OF: Mapping[Outcome, int] = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}
OUTCOME_OF: Mapping[int, Outcome] = {code: outcome for outcome, code in EXIT_CODE_OF.items()}

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
        rules: every rule's outcome.
        notes: what a reader should know of the policy: a waiver that waived nothing.
    """

    overall: Verdict
    schemes: dict[str, Verdict]
    rules: tuple[RuleOutcome, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checks:
    """Every check of an audit, waivers applied.

    Attributes:
        schemes: scheme -> its checks.
        overall: those that are about no scheme that was measured.
        unmeasured: the schemes that could not be measured.
    """

    schemes: Mapping[str, tuple[Check, ...]]
    overall: tuple[Check, ...]
    unmeasured: tuple[SchemeFailed, ...] = ()

    @property
    def all(self) -> tuple[Check, ...]:
        return (*(found for checks in self.schemes.values() for found in checks), *self.overall)


def checks_of(
    layers: Mapping[str, Sequence[LayerStatistics]],
    recoveries: Mapping[str, Mapping[str, Recovery]],
    policy: Policy,
    unmeasured: Sequence[SchemeFailed] = (),
    *,
    is_unlearned_stored: bool,
    scores: Mapping[str, Mapping[str, Score]],
    samples: Mapping[str, int],
    today: datetime.date,
) -> Checks:
    """Hold everything that was measured against a policy.

    With forgetting measured, the standard rule is about the recoveries: one metric that came back at one scheme fails
    the release. Without (weights only), it is about the layers. The policy's own rules come on top.

    Args:
        layers: scheme -> its layers, of the schemes that were measured.
        recoveries: scheme -> metric -> recovery; empty in a weights-only audit.
        policy: the policy.
        unmeasured: the schemes that could not be measured.
        is_unlearned_stored: the unlearned checkpoint is quantized already, and was measured as it is stored.
        scores: scheme -> metric -> score of the unlearned checkpoint at that scheme.
        samples: metric -> how many were scored.
        today: what waivers expire by.
    """
    schemes: dict[str, tuple[Check, ...]] = {}
    for scheme in dict.fromkeys([*layers, *recoveries]):
        measured = Measured(layers.get(scheme, ()), recoveries.get(scheme, {}), scores.get(scheme, {}))
        own = list(rules_at(scheme, measured, policy))
        if measured.recoveries:
            standard = list(_of_recoveries(scheme, measured.recoveries, policy.limits, is_unlearned_stored))
            if not any(found.outcome for found in (*standard, *own)):
                standard.append(_nothing_informative(scheme, measured.recoveries))
        else:
            standard = [_of_layers(scheme, measured.layers)]
        schemes[scheme] = tuple(waived(found, policy, today) for found in (*standard, *own))
    asked = (*schemes, *(failed.scheme for failed in unmeasured))
    overall = (
        *required(policy, asked, tuple(schemes), samples),
        *rules_without_schemes(asked, policy),
        *expired(policy, today),
    )
    return Checks(schemes, tuple(waived(found, policy, today) for found in overall), tuple(unmeasured))


def judgement_of(checks: Checks, policy: Policy, today: datetime.date) -> Judgement:
    """The verdicts that checks come to.

    One that fails fails the release. A scheme that could not be measured leaves it inconclusive, unless another check
    fails it.
    """
    judged = {scheme: _parts(found) for scheme, found in checks.schemes.items()}
    every = dict.fromkeys(  # what holds for all schemes is said once
        part for parts in (*judged.values(), _parts(checks.overall)) for part in parts
    )
    unmeasured: _Judged = [("inconclusive", _not_measured(failed)) for failed in checks.unmeasured]
    return Judgement(
        overall=_verdict([*every, *unmeasured]),
        schemes={scheme: _verdict(parts) for scheme, parts in judged.items()},
        rules=tuple(found.rule for found in checks.all),
        notes=tuple(
            f"the waiver of {waiver.rule} by {waiver.owner} waived nothing: it can go"
            for waiver in unused(policy, checks.all, today)
        ),
    )


def _parts(checks: Iterable[Check]) -> _Judged:
    return [(found.outcome, found.reason) for found in checks if found.outcome is not None]


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


def _of_recoveries(
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
        own = limits.of_metric(scheme, metric)
        code = recovery.outcome.replace(" ", "_")
        about: str | None = scheme
        if recovery.outcome == "not forgotten":
            text = _not_forgotten(metric, own, scheme if is_unlearned_stored else None)
            about = None  # it is so at every scheme
        elif recovery.outcome in _UNTOLD:
            text, about = f"{metric}: {_UNTOLD[recovery.outcome]}", None
        elif recovery.outcome == "uninformative":
            text = f"{metric} is uninformative: the original knew hardly more of the forget set than the floor"
        else:
            limit = f"the limit is {own.max_recovery_percent:g} %"
            text = f"{metric} {texts[recovery.outcome]} ({_interval(recovery)}; {limit})"
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


def _nothing_informative(scheme: str, measured: Mapping[str, Recovery]) -> Check:
    text = "no forget metric is informative: the original knew no more of the forget set than the floor"
    if all(recovery.outcome == "reported only" for recovery in measured.values()):
        text = "no metric that decides was measured: give verbmem, knowmem or labelled forget data"
    rule = RuleOutcome(rule=RECOVERY, scheme=scheme, figure="recovery", standing="not judged", message=text)
    return Check(rule, Reason(code="uninformative", message=text))


def _not_forgotten(metric: str, limits: Limits, stored_as: str | None) -> str:
    known = "in full precision" if stored_as is None else f"to the unlearned checkpoint as it is stored ({stored_as})"
    return (
        f"{metric}: the forget set is still known {known} "
        f"(less than {limits.informative_points:g} points below the original)"
    )


def _interval(recovery: Recovery) -> str:
    return f"recovery {recovery.percent:.0f} %, 95 % interval {recovery.low:.0f} to {recovery.high:.0f} %"


def _not_measured(failed: SchemeFailed) -> Reason:
    text = f"{failed.scheme} could not be measured: {failed.message}"
    return Reason(code="not_measured", message=text, scheme=failed.scheme)


def _of_layers(scheme: str, measured: Sequence[LayerStatistics]) -> Check:
    at_risk = tuple(layer.name for layer in measured if layer.at_risk)
    standing, code, text = _judged_layers(scheme, measured, len(at_risk))
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
    return check(rule, code)


def _judged_layers(scheme: str, measured: Sequence[LayerStatistics], at_risk: int) -> tuple[str, str, str]:
    """The standing of a scheme by its layers alone, the reason's code, and why in words."""
    changed = sum(layer.state != "untouched" for layer in measured)
    if at_risk:
        text = f"{scheme}: rounding may undo the unlearning in {at_risk} of {len(measured)} layers"
        return "failed", "layers_at_risk", text
    untold = sum(layer.state is None for layer in measured)
    if untold:
        text = (
            f"{scheme}: {untold} of {len(measured)} layers have no codes to compare, so that nothing can be told of "
            "them by the weights alone; give --data"
        )
        return "not judged", "not_comparable", text
    if changed and any(layer.state == "carried" and layer.survival is None for layer in measured):
        text = (
            f"{scheme}: the stored codes differ in {changed} of {len(measured)} layers; whether they carry the whole "
            "update cannot be told without the weights in full precision; give --data"
        )
        return "not judged", "codes_changed", text
    if changed:
        return "passed", "layers_carried", f"{scheme}: rounding carries the update in all {changed} layers that changed"
    text = f"{scheme}: no layer that is rounded differs between the two checkpoints"
    return "not judged", "nothing_changed", text


def _outcome(parts: Sequence[Outcome]) -> Outcome:
    """One failure fails; a pass needs every part that has a say to pass."""
    if "fail" in parts:
        return "fail"
    return "inconclusive" if "inconclusive" in parts else "pass"
