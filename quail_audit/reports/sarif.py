"""Write a report as SARIF 2.1.0, for code scanning.

Only report.json is read. Each reason that keeps the verdict from passing is a result: a failed check is an error, one
in doubt is "open". Passed checks are left out, as code scanning shows every result as an alert; junit.py has them. A
result's location is the unlearned checkpoint, with its layers as logical locations.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0 Plus Errata 01.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from quail_audit.core.clock import utc_of
from quail_audit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.findings import headline
from quail_audit.reports.reason_codes import FAILED, IN_DOUBT, PASSED
from quail_audit.schema.command_line import audit_arguments
from quail_audit.schema.figures import Reason
from quail_audit.schema.policy import MEMBERSHIP
from quail_audit.schema.report import Report, badness

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
WORST_LAYERS_NAMED = 10  # if the reason itself names none

_Json = dict[str, Any]


def render(report: Report) -> str:
    """Return the report as a SARIF log of one run."""
    reasons = [reason for reason in (report.verdict.reasons if report.verdict else ()) if reason.code not in PASSED]
    codes = list(dict.fromkeys(reason.code for reason in reasons))
    layers = list(dict.fromkeys(layer.name for scheme in report.schemes.values() for layer in scheme.layers))
    places = {name: place for place, name in enumerate(layers)}
    run: _Json = {
        "tool": {
            "driver": {"name": "Quail", "version": printable(report.quail_version), "rules": [_rule(c) for c in codes]}
        },
        "automationDetails": {"id": f"quail audit/{printable(report.run_id)}"},
        "invocations": [_invocation(report)],
        "artifacts": [{"location": {"uri": _uri(report)}, "roles": ["analysisTarget"]}],
        "logicalLocations": [
            {"name": printable(name), "fullyQualifiedName": printable(name), "kind": "module"} for name in layers
        ],
        "results": [
            _result(report, reason, codes.index(reason.code), [places[n] for n in _layers(report, reason)])
            for reason in reasons
        ],
        "properties": {"verdict": _outcome(report), "headline": printable(headline(report))},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(code: str) -> _Json:
    description = FAILED.get(code) or IN_DOUBT.get(code) or printable(code).replace("_", " ")
    return {"id": printable(code), "shortDescription": {"text": description}}


def _result(report: Report, reason: Reason, rule: int, layers: Sequence[int]) -> _Json:
    # A later Quail may have codes that are unknown here: such a reason is as bad as the verdict.
    is_unknown = reason.code not in FAILED and reason.code not in IN_DOUBT
    is_failed = reason.code in FAILED or (is_unknown and _outcome(report) == "fail") or _fails_a_limit(report, reason)
    without_figures = re.sub(r"-?\d+(\.\d+)?", "#", reason.message)
    check = "\n".join((reason.code, reason.scheme or "", without_figures))
    return {
        "ruleId": printable(reason.code),
        "ruleIndex": rule,
        "kind": "fail" if is_failed else "open",
        "level": "error" if is_failed else "none",  # the only level that a kind other than fail may have
        "message": {"text": _message(reason.message)},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(report), "index": 0}},
                "logicalLocations": [{"index": place} for place in layers],
            }
        ],
        # The one name that GitHub reads, so that an alert stays the same alert from run to run.
        "partialFingerprints": {
            "primaryLocationLineHash": hashlib.sha256(check.encode(errors="backslashreplace")).hexdigest()
        },
    }


def _fails_a_limit(report: Report, reason: Reason) -> bool:
    """Return whether the policy has a limit for what only warns otherwise, and it is not met."""
    return reason.code == "membership" and any(
        rule.rule == MEMBERSHIP and rule.scheme == reason.scheme and rule.decides and rule.standing == "failed"
        for rule in report.rules
    )


def _layers(report: Report, reason: Reason) -> Iterable[str]:
    """Return the layers that the reason names, else the worst at-risk layers of its scheme."""
    if reason.scheme not in report.schemes:
        return ()
    layers = report.schemes[reason.scheme].layers
    if reason.layers:
        known = {layer.name for layer in layers}
        return [name for name in reason.layers if name in known]
    return [layer.name for layer in sorted(layers, key=badness) if layer.at_risk][:WORST_LAYERS_NAMED]


def _invocation(report: Report) -> _Json:
    failures = [*([report.failure] if report.failure else [])]
    failures += [scheme.failure for scheme in report.schemes.values() if scheme.failure is not None]
    notifications = [
        {"level": "error", "message": {"text": _message(wording.failure_line(failure))}} for failure in failures
    ]
    notifications += [{"level": "note", "message": {"text": _message(note)}} for note in report.notes]
    found: _Json = {
        "commandLine": printable(shlex.join(["quail", *audit_arguments(report.request)])),
        "executionSuccessful": report.exit_code in (EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE),
        "startTimeUtc": _utc(report.started),
        "endTimeUtc": _utc(report.finished),
        "exitCode": report.exit_code,
        "toolExecutionNotifications": notifications,
    }
    return {name: value for name, value in found.items() if value is not None}


def _outcome(report: Report) -> str:
    return report.verdict.outcome if report.verdict is not None else "unknown"


def _uri(report: Report) -> str:
    """Return the unlearned checkpoint as a URI: a file: URI for an absolute path, else a relative one."""
    source = PurePath(report.request.unlearned)
    named = printable(str(source)).encode("utf-8", errors="replace")
    return f"file://{quote(named)}" if source.is_absolute() else quote(named, safe="/@")


def _message(text: str) -> str:
    """Escape brackets and braces, which would make links and placeholders in a plain text message (section 3.11)."""
    escaped = re.sub(r"([\\\[\]])", r"\\\1", printable(text))
    return escaped.replace("{", "{{").replace("}", "}}")


def _utc(moment: str | None) -> str | None:
    """Return a moment, ISO 8601 with an offset, as SARIF writes it; None if it is unknown."""
    found = utc_of(moment) if moment else None
    return None if found is None else found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
