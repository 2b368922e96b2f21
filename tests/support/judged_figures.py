"""Recoveries of every outcome, a scheme that failed, and a day to judge on."""

import datetime

from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import Recovery

TODAY = datetime.date(2026, 1, 1)
HELD = Recovery(outcome="held", percent=1.0, low=0.0, high=5.0, floor=20.0, floor_arm="unlearned/full")
UNDECIDED = Recovery(outcome="undecided", percent=9.0, low=2.0, high=30.0, floor=20.0, floor_arm="unlearned/full")
UNINFORMATIVE = Recovery(outcome="uninformative")
NOT_FORGOTTEN = Recovery(outcome="not forgotten")
REPORTED = Recovery(outcome="reported only", percent=90.0)


def failed_scheme(scheme: str, exit_code: int = 4) -> SchemeFailed:
    return SchemeFailed(scheme=scheme, kind="environment", message="no backend", exit_code=exit_code)
