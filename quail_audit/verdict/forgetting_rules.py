"""Judge what is known, what is kept and what the format leaves, by the rules that every audit with data has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from quail_audit.schema.figures import Estimate, ItemsBack, Kept, Knowledge, KnowledgeOutcome, Reason, RuleOutcome
from quail_audit.schema.policy import FORGETTING, FORMAT, MEMBERSHIP, UTILITY, Limits
from quail_audit.verdict.metric_kinds import items_word
from quail_audit.verdict.rules import Check, check_of
from quail_audit.verdict.standings import FULL_OUTCOMES, worst_first

_STANDINGS: Mapping[KnowledgeOutcome, str] = {
    "not forgotten": "failed",
    "swapped": "failed",
    "comes back": "failed",
    "holds": "passed",
}
_UNTOLD: Mapping[KnowledgeOutcome, str] = {
    "swapped": "the unlearned checkpoint knows more of the forget set than the original: are the two swapped?",
    "uninformative": "it tells nothing, as the original knew hardly more of the forget set than the floor",
    "no floor": "the checkpoint is stored quantized, so it cannot be told what was forgotten; give the unlearned model "
    "in full precision, or a retrained reference (--retrain)",
    "no rounded arm": "no scheme rounds the unlearned checkpoint the way the original is stored; give it as it will be "
    "deployed",
}


def judge_knowledge(scheme: str, measured: Mapping[str, Knowledge], limits: Limits) -> Iterator[Check]:
    """Yield a check for each metric that decides; the one with most items back comes first."""
    deciding = [(metric, knowledge) for metric, knowledge in measured.items() if knowledge.outcome != "reported only"]
    for metric, knowledge in sorted(deciding, key=worst_first):
        own = limits.metric_limits(scheme, metric)
        is_full = knowledge.outcome in FULL_OUTCOMES
        known = knowledge.residual if is_full else knowledge.known
        back = knowledge.kept if is_full else knowledge.back
        by_items = back is not None and (known is None or (back.standing == "above" and known.standing != "above"))
        figure: Estimate | None = known
        if by_items and back is not None:
            figure = Estimate(percent=100.0 * back.count / back.items, low=back.low, high=back.high, items=back.items)
        text = _text_of(metric, scheme, knowledge, own)
        rule = RuleOutcome.model_validate(
            {
                "rule": FORGETTING,
                "scheme": scheme,
                "metric": metric,
                "figure": "back" if by_items else "known",
                "value": figure.percent if figure is not None else None,
                "low": figure.low if figure is not None else None,
                "high": figure.high if figure is not None else None,
                "at_most": own.max_back_percent if by_items else own.max_known_percent,
                "standing": _STANDINGS.get(knowledge.outcome, "not judged"),
                "decides": knowledge.outcome not in ("uninformative", "broken format"),
                "message": text,
            }
        )
        about = None if is_full or knowledge.outcome in _UNTOLD else scheme  # None: the same at every scheme
        said = _UNTOLD.get(knowledge.outcome, text)  # without the metric, so that it is said once for all
        yield Check(rule, Reason(code=knowledge.outcome.replace(" ", "_"), message=said, scheme=about))


def uninformative_check(scheme: str, measured: Mapping[str, Knowledge]) -> Check:
    """Return an inconclusive check of a scheme at which no metric tells anything."""
    outcomes = {knowledge.outcome for knowledge in measured.values()} - {"reported only"}
    text, code = "no forget metric is informative: the original knew hardly more of the forget set than the floor", ""
    if not outcomes:
        text = "no metric that decides was measured: give verbmem, knowmem or labelled forget data"
    elif "broken format" in outcomes:
        text, code = f"{scheme} takes what the original knew, so forgetting cannot be told from damage", scheme
    rule = RuleOutcome(rule=FORGETTING, scheme=scheme, figure="known", standing="not judged", message=text)
    return Check(rule, Reason(code="broken_format" if code else "uninformative", message=text, scheme=code or None))


def judge_utility(scheme: str, measured: Mapping[str, Kept], limits: Limits) -> Iterator[Check]:
    """Yield the check of the retain metric that keeps least, and that of the one that the format leaves least of.

    Utility fails if it is below its limit for sure, and passes if it is not below: it is no leak. Between them it is
    undecided. If the format itself breaks the model, the unlearning is not charged for it.
    """
    formats = {metric: kept for metric, kept in measured.items() if kept.format_percent is not None}
    is_broken = False
    if formats:
        metric = min(formats, key=lambda metric: formats[metric].format_percent or 0.0)
        percent, least = formats[metric].format_percent, limits.metric_limits(scheme, metric).min_format_percent
        is_broken = percent is not None and percent < least
        leaves = f"{scheme} leaves the original {percent:.0f} % of its {metric}"
        text = f"{leaves}: the format breaks the model; the least is {least:g} %" if is_broken else leaves
        standing, code = ("not judged", "broken_format") if is_broken else ("passed", "format_kept")
        found = _kept_check(FORMAT, scheme, metric, "format", percent, None, least, standing, text, code)
        yield replace(found, is_said=is_broken)
    known = {metric: kept.utility for metric, kept in measured.items() if kept.utility is not None}
    if not known or is_broken:
        if not measured:
            text = "utility was not measured: no retain set with questions, continuations or labels was asked"
            rule = RuleOutcome(
                rule=UTILITY, scheme=scheme, figure="utility", standing="not judged", decides=False, message=text
            )
            yield check_of(rule, "utility_not_measured")
        return
    metric = min(known, key=lambda metric: known[metric].percent)
    kept, least = known[metric], limits.metric_limits(scheme, metric).min_utility_percent
    text = (
        f"{metric} keeps {round(kept.percent)} % of the original's at {scheme} ({_range(kept)}, n = {kept.items}); "
        f"the least is {least:g} %"
    )
    standing, code = "passed", "utility_kept"
    if kept.standing == "within":
        standing, code = "failed", "utility_lost"
    elif kept.percent < least:
        standing, code, text = "not judged", "utility_undecided", f"{text}: too few items to tell"
    yield _kept_check(UTILITY, scheme, metric, "utility", kept.percent, kept, least, standing, text, code)


def judge_membership(scheme: str, measured: Mapping[str, Knowledge], limits: Limits) -> Iterator[Check]:
    """Yield a check of the membership metric that tells most; it warns, unless the policy has a limit for it."""
    told = {
        metric: knowledge.known
        for metric, knowledge in measured.items()
        if knowledge.outcome == "reported only" and knowledge.known is not None
    }
    if not told:
        return
    metric = max(told, key=lambda metric: told[metric].low)
    found, own = told[metric], limits.metric_limits(scheme, metric)
    limit = own.max_membership_percent
    most = own.max_known_percent if limit is None else limit
    can = "can be told again" if found.low > most else "cannot be told" if found.high <= most else "may be told again"
    text = (
        f"membership {can} at {scheme}: {metric} is {round(found.percent)} % of the way back to the original "
        f"({_range(found)}, n = {found.items}); the limit is {most:g} %"
    )
    standing = "failed" if found.low > most else "passed" if found.high <= most else "not judged"
    rule = RuleOutcome.model_validate(
        {
            "rule": MEMBERSHIP,
            "scheme": scheme,
            "metric": metric,
            "figure": "membership",
            "value": found.percent,
            "low": found.low,
            "high": found.high,
            "at_most": most,
            "standing": standing if limit is not None else "not judged",
            "decides": limit is not None,
            "message": text,
        }
    )
    code = "membership_untold" if found.high <= most else "membership"
    reason = Reason(code=code, message=text, scheme=scheme)
    yield Check(rule, reason, is_said=True if limit is None and found.low > most else None)


def _text_of(metric: str, scheme: str, knowledge: Knowledge, limits: Limits) -> str:
    word = items_word(metric)
    back, known = limits.max_back_percent, limits.max_known_percent
    limit = f"the limit is {back:g} %" if back == known else f"the limits are {back:g} % back and {known:g} % known"
    if knowledge.outcome == "not forgotten":
        kept = _items_text(knowledge.kept, word, "still there")
        return f"{metric} was not forgotten: in full precision {_join(kept, _known_text(knowledge.residual))}; {limit}"
    if knowledge.outcome == "broken format":
        percent = round(knowledge.format_percent or 0.0)
        return f"{metric} tells nothing at {scheme}: the format leaves the original {percent} % of what it knew"
    if knowledge.outcome in _UNTOLD:
        return f"{metric}: {_UNTOLD[knowledge.outcome]}"
    figures = _join(_items_text(knowledge.back, word, "back"), _known_text(knowledge.known))
    if knowledge.outcome == "comes back":
        return f"{metric} comes back at {scheme}: {figures}; {limit}"
    if knowledge.outcome == "holds":
        return f"{metric} stays forgotten at {scheme}: {figures}; {limit}"
    return f"{metric} may come back at {scheme}: {figures}; {limit}; {_more_items(knowledge, word)}"


def _more_items(knowledge: Knowledge, word: str) -> str:
    if knowledge.items_needed is None:
        return f"too few {word} to tell, and to say how many would do"
    return f"too few {word} to tell: about {knowledge.items_needed} like these would do"


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _items_text(found: ItemsBack | None, word: str, state: str) -> str:
    if found is None:
        return ""
    return f"{found.count} of {found.items} {word} are {state} ({round(found.low)} to {round(found.high)} %)"


def _known_text(found: Estimate | None) -> str:
    return "" if found is None else f"{round(found.percent)} % is known ({_range(found)})"


def _range(found: Estimate) -> str:
    """Return the shares that the items allow, at 95 %."""
    return f"{round(found.low)} to {round(found.high)} %"


def _kept_check(
    rule: str,
    scheme: str,
    metric: str,
    figure: str,
    percent: float | None,
    found: Estimate | None,
    least: float,
    standing: str,
    text: str,
    code: str,
) -> Check:
    outcome = RuleOutcome.model_validate(
        {
            "rule": rule,
            "scheme": scheme,
            "metric": metric,
            "figure": figure,
            "value": percent,
            "low": found.low if found is not None else None,
            "high": found.high if found is not None else None,
            "at_least": least,
            "standing": standing,
            "message": text,
        }
    )
    return check_of(outcome, code)
