"""Knowledge of every outcome, a scheme that failed, and a day to judge on."""

import datetime

from quail_audit.schema.events.audit import SchemeFailed
from quail_audit.schema.figures import Estimate, ItemsBack, Knowledge, KnowledgeOutcome, Standing

TODAY = datetime.date(2026, 1, 1)
_STANDINGS: dict[str, Standing] = {"comes back": "above", "not forgotten": "above", "holds": "within"}


def knowledge(
    outcome: KnowledgeOutcome, percent: float, low: float, high: float, *, back: int = 0, items: int = 100
) -> Knowledge:
    """Make knowledge by a metric with a reference; if it was not forgotten, in full precision as well."""
    standing = _STANDINGS.get(outcome, "undecided")
    known = Estimate(percent=percent, low=low, high=high, items=items, standing=standing)
    share = 100.0 * back / items
    counted = ItemsBack(count=back, items=items, low=max(0.0, share - 4), high=min(100.0, share + 4), standing=standing)
    is_full = outcome == "not forgotten"
    return Knowledge(
        outcome=outcome,
        known=known,
        residual=known if is_full else Estimate(percent=0.0, low=0.0, high=5.0, items=items, standing="within"),
        back=counted,
        kept=counted if is_full else ItemsBack(count=0, items=items, low=0.0, high=4.0, standing="within"),
        format_percent=99.0,
        floor=20.0,
        floor_arm="retrain/full",
        items_needed=2 * items if outcome == "undecided" else None,
    )


HOLDS = knowledge("holds", 1.0, 0.0, 5.0)
COMES_BACK = knowledge("comes back", 97.0, 91.0, 103.0, back=96)
UNDECIDED = knowledge("undecided", 9.0, 2.0, 30.0, back=2, items=20)
UNINFORMATIVE = Knowledge(outcome="uninformative")
NOT_FORGOTTEN = knowledge("not forgotten", 92.0, 80.0, 98.0, back=90)
REPORTED = Knowledge(outcome="reported only", known=Estimate(percent=90.0, low=80.0, high=99.0, items=40))


def failed_scheme(scheme: str, exit_code: int = 4) -> SchemeFailed:
    return SchemeFailed(scheme=scheme, kind="environment", message="no backend", exit_code=exit_code)
