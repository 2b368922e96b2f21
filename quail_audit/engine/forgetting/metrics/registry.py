"""Find metrics by name: Quail's own, and those of plug-ins (entry point quail.metrics)."""

import functools
from typing import Any

from quail_audit.core.plug_ins import add_plug_ins, find_by_name
from quail_audit.engine.forgetting.metrics import (
    accuracy,
    exact_memorization,
    extraction_strength,
    knowmem,
    label_probability,
    macro_f1,
    membership,
    nll,
    privleak,
    probability,
    text_membership,
    verbmem,
)
from quail_audit.engine.forgetting.metrics.interface import Metric


@functools.cache
def known_metrics() -> tuple[Metric[Any], ...]:
    """Return every metric in the order they are measured: those that only read before those that write."""
    own: tuple[Metric[Any], ...] = (
        *accuracy.metrics(),
        *label_probability.metrics(),
        *macro_f1.metrics(),
        *membership.metrics(),
        *nll.metrics(),
        *privleak.metrics(),
        *text_membership.metrics(),
        *probability.metrics(),
        *extraction_strength.metrics(),
        *exact_memorization.metrics(),
        *knowmem.metrics(),
        *verbmem.metrics(),
    )
    found = add_plug_ins(own, "quail.metrics", Metric)  # type: ignore[type-abstract]
    return tuple(sorted(found, key=lambda metric: metric.generates))


def metric_named(name: str) -> Metric[Any]:
    """Return the metric of this name.

    Raises:
        UsageError: there is none; the message lists the names.
    """
    return find_by_name(name, known_metrics(), "metric")
