"""Read the recoveries of schema version 1 as knowledge.

Recovery was measured from the larger of the reference and the unlearned checkpoint in full precision, with a bootstrap
interval. It reads on as knowledge without items back; a verdict of that time stands as it was given.
"""

from collections.abc import Mapping
from typing import Any, Literal

from quail_audit.core.values import Name, Value
from quail_audit.schema.figures import Estimate, Knowledge, KnowledgeOutcome, Standing

_OUTCOMES: Mapping[str, KnowledgeOutcome] = {"recovered": "comes back", "held": "holds"}
_STANDINGS: Mapping[str, Standing] = {"recovered": "above", "held": "within", "undecided": "undecided"}


class Recovery(Value):
    """The share of what there was to forget that came back, in percent, as schema version 1 has it."""

    outcome: Literal[
        "recovered",
        "held",
        "undecided",
        "uninformative",
        "not forgotten",
        "reported only",
        "no floor",
        "no rounded arm",
    ]
    percent: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_arm: Name | None = None


def knowledge_of(recovery: Recovery, items: int) -> Knowledge:
    """Return an older run's recovery as knowledge.

    Args:
        recovery: as it was measured.
        items: samples that it rests on; 0 if that is not known.
    """
    known = None
    if recovery.percent is not None:
        known = Estimate(
            percent=recovery.percent,
            low=recovery.percent if recovery.low is None else recovery.low,
            high=recovery.percent if recovery.high is None else recovery.high,
            items=items,
            standing=_STANDINGS.get(recovery.outcome),
        )
    outcome: Any = _OUTCOMES.get(recovery.outcome, recovery.outcome)
    return Knowledge(outcome=outcome, known=known, floor=recovery.floor, floor_arm=recovery.floor_arm)


def read_older_scheme(document: Any) -> Any:
    """Return a scheme's part of a report with its recoveries, if it has any, as knowledge."""
    if not isinstance(document, dict) or not isinstance(document.get("recovery"), dict) or "knowledge" in document:
        return document
    found = {}
    metrics = document.get("metrics")
    for metric, each in document["recovery"].items():
        arms = metrics.get(metric) if isinstance(metrics, dict) else None
        found_arms = list(arms.values()) if isinstance(arms, dict) else []
        samples = [n for arm in found_arms if isinstance(arm, dict) and isinstance(n := arm.get("samples"), int)]
        found[metric] = knowledge_of(Recovery.model_validate(each, extra="ignore"), min(samples, default=0))
    return {name: value for name, value in document.items() if name != "recovery"} | {"knowledge": found}
