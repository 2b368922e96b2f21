"""The report as JUnit XML, so that CI shows one test case for each check. From report.json alone.

A suite for each scheme; in it a case for each forget metric that decides, or one for the layers where only weights were
measured, and one for each rule of the policy's own. A check in doubt, or waived, is skipped with its reason, and what
could not be measured is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.rule_rows import rule_row
from quail_audit.schema.figures import Recovery, RuleOutcome
from quail_audit.schema.policy import LAYERS_AT_RISK, RECOVERY
from quail_audit.schema.report import Report, SchemeReport

_STANDARD = (RECOVERY, LAYERS_AT_RISK)  # these have cases of their own
_NOT_IN_XML = re.compile("[\ufffe\uffff]")  # what printable leaves and XML 1.0 forbids


def render(report: Report) -> str:
    """The report as one XML document."""
    root = Element("testsuites", name="quail audit")
    for scheme, measured in report.schemes.items():
        suite = SubElement(root, "testsuite", name=_text(scheme))
        rules = [rule for rule in report.rules if rule.scheme == scheme]
        _checks(suite, scheme, measured, {rule.metric: rule for rule in rules if rule.rule in _STANDARD})
        for rule in rules:
            if rule.rule not in _STANDARD:
                _rule(suite, rule)
        _count(suite)
    if others := [rule for rule in report.rules if rule.scheme not in report.schemes]:
        suite = SubElement(root, "testsuite", name="policy")
        for rule in others:
            _rule(suite, rule)
        _count(suite)
    if report.failure is not None:
        suite = SubElement(root, "testsuite", name="audit")
        case = SubElement(suite, "testcase", classname="quail", name="the audit runs to its end")
        SubElement(case, "error", type=_text(report.failure.kind), message=_text(wording.failure_line(report.failure)))
        _count(suite)
    _count(root)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _checks(suite: Element, scheme: str, measured: SchemeReport, rules: Mapping[str | None, RuleOutcome]) -> None:
    classname = f"quail.{_text(scheme)}"
    if measured.failure is not None:
        case = SubElement(suite, "testcase", classname=classname, name="can be measured")
        SubElement(
            case, "error", type=_text(measured.failure.kind), message=_text(wording.failure_line(measured.failure))
        )
        return
    deciding = {m: found for m, found in measured.recovery.items() if found.outcome != "reported only"}
    for metric, found in deciding.items():
        name = f"{wording.metric_title(metric)}: stays forgotten"
        case = SubElement(suite, "testcase", classname=classname, name=_text(name))
        if not _let_pass(case, rules.get(metric)):
            _outcome(case, found)
    if not deciding and measured.summary is not None:
        case = SubElement(suite, "testcase", classname=classname, name="no layer is at risk")
        at_risk = [layer for layer in measured.layers if layer.at_risk]
        if _let_pass(case, rules.get(None)):
            pass
        elif at_risk:
            message = f"{len(at_risk)} of {len(measured.layers)} layers are at risk"
            failure = SubElement(case, "failure", type="layers_at_risk", message=message)
            failure.text = "\n".join(f"{_text(layer.name)}: {layer.state}" for layer in at_risk)
        elif all(layer.state == "untouched" for layer in measured.layers):
            SubElement(case, "skipped", message="no layer that is rounded differs between the two checkpoints")


def _let_pass(case: Element, rule: RuleOutcome | None) -> bool:
    """Whether the check fails and is let pass all the same, which is said."""
    if rule is None or rule.standing not in ("waived", "known"):
        return False
    SubElement(case, "skipped", message=_text(rule.message))
    return True


def _rule(suite: Element, rule: RuleOutcome) -> None:
    row = rule_row(rule)
    case = SubElement(suite, "testcase", classname="quail.policy", name=_text(f"{row.rule}: {row.about}, {row.limit}"))
    if rule.standing == "failed":
        failure = SubElement(case, "failure", type="rule", message=_text(rule.message))
        failure.text = "\n".join(map(_text, rule.layers))
    elif rule.standing != "passed":
        SubElement(case, "skipped", message=_text(rule.message))


def _outcome(case: Element, found: Recovery) -> None:
    message = f"recovery {wording.recovery_with_outcome(found)}"
    if found.outcome in ("recovered", "not forgotten"):
        SubElement(case, "failure", type=found.outcome, message=message)
    elif found.outcome != "held":
        SubElement(case, "skipped", message=message)


def _count(suite: Element) -> None:
    """What readers sum up by."""
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(1 for _ in suite.iter(tag))))


def _text(text: str) -> str:
    return _NOT_IN_XML.sub("?", printable(text))
