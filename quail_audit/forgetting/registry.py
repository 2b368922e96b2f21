"""Finds metrics by name: Quail's own, and those that other packages register under the entry point quail.metrics."""

import functools
import warnings
from difflib import get_close_matches
from importlib.metadata import entry_points

from quail_audit.errors import UsageError
from quail_audit.forgetting import knowmem, likelihood, privleak, verbmem
from quail_audit.forgetting.interface import Metric


@functools.cache
def known_metrics() -> tuple[Metric, ...]:
    """Every metric in the order they are measured: those that only read before those that write.

    A plug-in is a callable that returns a Metric; a broken one is skipped, loudly.
    """
    own = (*likelihood.metrics(), *privleak.metrics(), *knowmem.metrics(), *verbmem.metrics())
    found: dict[str, Metric] = {metric.name: metric for metric in own}
    for entry in entry_points(group="quail.metrics"):
        try:
            plugged_in = entry.load()()
            if not isinstance(plugged_in, Metric):
                raise TypeError(f"it made a {type(plugged_in).__name__}, not a Metric")
        except Exception as error:  # a plug-in may fail in any way; the others must work
            warnings.warn(f"the metric plug-in {entry.name} was skipped: {error}", stacklevel=2)
        else:
            found.setdefault(plugged_in.name, plugged_in)
    return tuple(sorted(found.values(), key=lambda metric: metric.generates))


def metric_named(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UsageError: there is none; the message names those there are.
    """
    metrics = {metric.name: metric for metric in known_metrics()}
    if name not in metrics:
        near = get_close_matches(name, metrics, n=1)
        known = f"Known: {', '.join(metrics)}"
        mend = f"Did you mean {near[0]}? {known}" if near else known
        raise UsageError(f"unknown metric {name!r}", where="--metric", mend=mend)
    return metrics[name]
