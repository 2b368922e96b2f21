"""Combine an audit's checks into a verdict of each scheme and of the release."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from quail_audit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import (
    CheckpointFacts,
    Difference,
    Kept,
    Knowledge,
    LayerStatistics,
    OtherTensors,
    Outcome,
    Reason,
    RuleOutcome,
    Score,
    Verdict,
)
from quail_audit.schema.policy import Policy
from quail_audit.verdict.forgetting_rules import (
    judge_knowledge,
    judge_membership,
    judge_utility,
    uninformative_check,
)
from quail_audit.verdict.measured_share import known_layers_check, measured_share_check
from quail_audit.verdict.rules import (
    Check,
    SchemeResults,
    apply_waivers,
    expired_waiver_checks,
    requirement_checks,
    rule_checks,
    rule_checks_without_schemes,
    unused_waivers,
)
from quail_audit.verdict.standard_rules import differences_check, judge_layers
from quail_audit.verdict.weighed import Weighed

EXIT_CODE_OF: Mapping[Outcome, int] = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}
OUTCOME_OF: Mapping[int, Outcome] = {code: outcome for outcome, code in EXIT_CODE_OF.items()}

_Judged = list[tuple[Outcome, Reason]]


@dataclass(frozen=True)
class Judgement:
    """The verdicts of an audit.

    Attributes:
        overall: the release's, which passes if every scheme asked for was measured and passes.
        schemes: each measured scheme's.
        rules: every rule's outcome.
        weighed: the figures that the verdicts rest on.
        notes: what a reader should know about the policy, such as an unused waiver.
    """

    overall: Verdict
    schemes: dict[str, Verdict]
    rules: tuple[RuleOutcome, ...] = ()
    weighed: Weighed = field(default_factory=Weighed)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checks:
    """Every check of an audit, waivers applied.

    Attributes:
        schemes: scheme -> its checks.
        overall: those about no measured scheme.
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
    knowledge: Mapping[str, Mapping[str, Knowledge]],
    policy: Policy,
    unmeasured: Sequence[SchemeFailed] = (),
    *,
    utility: Mapping[str, Mapping[str, Kept]] = MappingProxyType({}),
    scores: Mapping[str, Mapping[str, Score]],
    samples: Mapping[str, int],
    today: datetime.date,
    differences: Sequence[Difference] = (),
    are_weights_identical: bool = False,
    others: OtherTensors | None = None,
    checkpoints: Mapping[str, CheckpointFacts] = MappingProxyType({}),
) -> Checks:
    """Check everything that was measured against a policy.

    If forgetting was measured, the standard rules are about what is known, kept and left by the format: one metric that
    comes back at one scheme fails the release. In a weights-only audit it is about layers. The policy's own rules come
    on top.

    Args:
        layers: scheme -> its layers, of the schemes that were measured.
        knowledge: scheme -> metric -> what is known; empty in a weights-only audit.
        policy: the policy.
        unmeasured: the schemes that could not be measured.
        utility: scheme -> retain metric -> what is kept.
        scores: scheme -> metric -> score of the unlearned checkpoint at that scheme.
        samples: metric -> how many were scored.
        today: the day that waivers are compared with.
        differences: of the pair, beside the weights.
        are_weights_identical: every tensor is the same on both sides.
        others: the tensors that are not measured as layers; None: not known.
        checkpoints: side -> what was found of it, as far as it is known.
    """
    schemes: dict[str, tuple[Check, ...]] = {}
    for scheme in dict.fromkeys([*layers, *knowledge]):
        measured = SchemeResults(layers.get(scheme, ()), knowledge.get(scheme, {}), scores.get(scheme, {}))
        own = list(rule_checks(scheme, measured, policy))
        if measured.knowledge:
            standard = list(judge_knowledge(scheme, measured.knowledge, policy.limits))
            if not any(found.outcome for found in (*standard, *own)):
                standard.append(uninformative_check(scheme, measured.knowledge))
            standard += judge_utility(scheme, utility.get(scheme, {}), policy.limits)
            standard += judge_membership(scheme, measured.knowledge, policy.limits)
            beside = differences_check(
                scheme, measured.knowledge, differences, are_weights_identical=are_weights_identical
            )
            standard += [beside] if beside is not None else []
        else:
            known = known_layers_check(scheme, checkpoints)
            accepts = policy.limits.accept_weights_only
            standard = [judge_layers(scheme, measured.layers, accepts_weights_only=accepts)]
            standard += [known] if known is not None else []
        share = measured_share_check(scheme, measured.layers, others)
        standard += [share] if share is not None else []
        schemes[scheme] = tuple(apply_waivers(found, policy, today) for found in (*standard, *own))
    asked = (*schemes, *(failed.scheme for failed in unmeasured))
    overall = (
        *requirement_checks(policy, asked, tuple(schemes), samples),
        *rule_checks_without_schemes(asked, policy),
        *expired_waiver_checks(policy, today),
    )
    return Checks(schemes, tuple(apply_waivers(found, policy, today) for found in overall), tuple(unmeasured))


def judgement_of(checks: Checks, policy: Policy, today: datetime.date) -> Judgement:
    """Return the verdicts of checks.

    One failed check fails the release. A scheme that could not be measured leaves it inconclusive, unless another
    check fails it.
    """
    judged = {scheme: _reasons_of(found) for scheme, found in checks.schemes.items()}
    every = dict.fromkeys(  # state once what holds for all schemes
        part for parts in (*judged.values(), _reasons_of(checks.overall)) for part in parts
    )
    unmeasured: _Judged = [("inconclusive", _not_measured_reason(failed)) for failed in checks.unmeasured]
    return Judgement(
        overall=_verdict_of([*every, *unmeasured]),
        schemes={scheme: _verdict_of(parts) for scheme, parts in judged.items()},
        rules=tuple(found.rule for found in checks.all),
        notes=tuple(
            f"the waiver of {waiver.rule} by {waiver.owner} waived nothing and can be removed"
            for waiver in unused_waivers(policy, checks.all, today)
        ),
    )


def _reasons_of(checks: Iterable[Check]) -> _Judged:
    """Return what checks say, each reason once."""
    said = [(found, found.outcome is not None if found.is_said is None else found.is_said) for found in checks]
    return list(dict.fromkeys((found.outcome or "pass", found.reason) for found, is_said in said if is_said))


def exit_code(verdict: Verdict, unmeasured: Sequence[SchemeFailed]) -> int:
    """Return a finished audit's exit code: the worst of fail, a scheme not measured, inconclusive, pass.

    A scheme that could not be measured gives its error's code: 4 if the machine lacks something, 3 for bad input.
    """
    if verdict.outcome != "fail" and unmeasured:
        return max(failed.exit_code for failed in unmeasured)
    return EXIT_CODE_OF[verdict.outcome]


def _verdict_of(judged: _Judged) -> Verdict:
    """Return the verdict, with the worst reasons first."""
    ordered = sorted(judged, key=lambda part: ("fail", "inconclusive", "pass").index(part[0]))
    return Verdict(
        outcome=_worst_outcome([outcome for outcome, _ in ordered]), reasons=tuple(reason for _, reason in ordered)
    )


def _not_measured_reason(failed: SchemeFailed) -> Reason:
    text = f"{failed.scheme} could not be measured: {failed.message}"
    return Reason(code="not_measured", message=text, scheme=failed.scheme)


def _worst_outcome(parts: Sequence[Outcome]) -> Outcome:
    """Return "fail" if one part fails, "pass" if no part is inconclusive either."""
    if "fail" in parts:
        return "fail"
    return "inconclusive" if "inconclusive" in parts else "pass"
