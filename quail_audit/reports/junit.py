"""Write a report as JUnit XML, so that CI shows one test case for each check.

Only report.json is read. Each scheme is a suite, with what was found first among its properties. It has a case for each
forget metric that decides, or one for the layers if only weights were measured, one each for utility, the format and
membership, and one for each rule of the policy's own. A check that is waived or in doubt is skipped with its reason; a
failed measurement is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from quail_audit.core.untrusted import printable
from quail_audit.reports import findings, wording
from quail_audit.reports.rule_rows import rule_row
from quail_audit.schema.figures import Knowledge, RuleOutcome
from quail_audit.schema.policy import FORGETTING, FORMAT, LAYERS_AT_RISK, MEMBERSHIP, UTILITY
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.verdict.standings import scheme_standings

_STANDARD = (FORGETTING, LAYERS_AT_RISK, "recovery")  # these have their own cases; the last in older reports
_KEPT: Mapping[str, str] = {
    UTILITY: "utility is kept",
    FORMAT: "the format leaves the model whole",
    MEMBERSHIP: "membership cannot be told",
}
_NOT_IN_XML = re.compile("[\ufffe\uffff]")  # allowed by printable(), forbidden by XML 1.0


def render(report: Report) -> str:
    """Return the report as one XML document."""
    root = Element("testsuites", name="quail audit")
    for each in scheme_standings(report):
        scheme, measured = each.scheme, report.schemes[each.scheme]
        suite = SubElement(root, "testsuite", name=_text(scheme))
        properties = SubElement(suite, "properties")
        for name, value in (("verdict", each.standing), ("headline", findings.scheme_headline(each))):
            if value:
                SubElement(properties, "property", name=name, value=_text(value))
        rules = [rule for rule in report.rules if rule.scheme == scheme]
        _add_checks(suite, scheme, measured, {rule.metric: rule for rule in rules if rule.rule in _STANDARD})
        for rule in rules:
            if rule.rule in _KEPT and measured.failure is None:
                _add_kept(suite, scheme, rule)
            elif rule.rule not in _STANDARD:
                _add_rule(suite, rule)
        _set_counts(suite)
    if others := [rule for rule in report.rules if rule.scheme not in report.schemes]:
        suite = SubElement(root, "testsuite", name="policy")
        for rule in others:
            _add_rule(suite, rule)
        _set_counts(suite)
    if report.failure is not None:
        suite = SubElement(root, "testsuite", name="audit")
        case = SubElement(suite, "testcase", classname="quail", name="the audit runs to its end")
        SubElement(case, "error", type=_text(report.failure.kind), message=_text(wording.failure_line(report.failure)))
        _set_counts(suite)
    _set_counts(root)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add_checks(suite: Element, scheme: str, measured: SchemeReport, rules: Mapping[str | None, RuleOutcome]) -> None:
    classname = f"quail.{_text(scheme)}"
    if measured.failure is not None:
        case = SubElement(suite, "testcase", classname=classname, name="can be measured")
        SubElement(
            case, "error", type=_text(measured.failure.kind), message=_text(wording.failure_line(measured.failure))
        )
        return
    deciding = {m: found for m, found in measured.knowledge.items() if found.outcome != "reported only"}
    for metric, found in deciding.items():
        name = f"{findings.full_title(metric)}: stays forgotten"
        case = SubElement(suite, "testcase", classname=classname, name=_text(name))
        if not _skip_accepted(case, rules.get(metric)):
            _add_outcome(case, found)
    if not deciding and measured.summary is not None:
        case = SubElement(suite, "testcase", classname=classname, name="no layer is at risk")
        at_risk = [layer for layer in measured.layers if layer.at_risk]
        if _skip_accepted(case, rules.get(None)):
            pass
        elif at_risk:
            message = f"{len(at_risk)} of {len(measured.layers)} layers are at risk"
            failure = SubElement(case, "failure", type="layers_at_risk", message=message)
            failure.text = "\n".join(f"{_text(layer.name)}: {layer.state}" for layer in at_risk)
        elif all(layer.state == "untouched" for layer in measured.layers):
            SubElement(case, "skipped", message="no rounded layer differs between the two checkpoints")


def _skip_accepted(case: Element, rule: RuleOutcome | None) -> bool:
    """Skip a check that fails but is waived or known, with the reason; return whether it was."""
    if rule is None or rule.standing not in ("waived", "known"):
        return False
    SubElement(case, "skipped", message=_text(rule.message))
    return True


def _add_kept(suite: Element, scheme: str, rule: RuleOutcome) -> None:
    """Add the case of a standard check that is not about what was to be forgotten; a warning is skipped."""
    about = f"{findings.full_title(rule.metric)}: " if rule.metric is not None else ""
    case = SubElement(suite, "testcase", classname=f"quail.{_text(scheme)}", name=_text(f"{about}{_KEPT[rule.rule]}"))
    is_met = not rule.decides and rule.high is not None and rule.at_most is not None and rule.high <= rule.at_most
    if rule.standing == "failed":
        SubElement(case, "failure", type=rule.rule, message=_text(rule.message))
    elif rule.standing != "passed" and not is_met:
        SubElement(case, "skipped", message=_text(rule.message))


def _add_rule(suite: Element, rule: RuleOutcome) -> None:
    row = rule_row(rule)
    case = SubElement(suite, "testcase", classname="quail.policy", name=_text(f"{row.rule}: {row.about}, {row.limit}"))
    if rule.standing == "failed":
        failure = SubElement(case, "failure", type="rule", message=_text(rule.message))
        failure.text = "\n".join(map(_text, rule.layers))
    elif rule.standing != "passed":
        SubElement(case, "skipped", message=_text(rule.message))


def _add_outcome(case: Element, found: Knowledge) -> None:
    known = findings.knowledge_in_brief(found)
    message = known if known == found.outcome else f"{found.outcome}: {known}"
    if found.outcome in ("comes back", "swapped", "not forgotten"):
        SubElement(case, "failure", type=found.outcome, message=message)
    elif found.outcome != "holds":
        SubElement(case, "skipped", message=message)


def _set_counts(suite: Element) -> None:
    """Set the totals that readers of JUnit show."""
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(1 for _ in suite.iter(tag))))


def _text(text: str) -> str:
    return _NOT_IN_XML.sub("?", printable(text))
