"""Audit unlearned language models for knowledge that comes back when they are quantized.

    import quail_audit as quail

    report = quail.audit("original/", "unlearned/", data="data/", schemes=["nf4"])

Names are imported when they are first used: torch takes seconds, and `quail --help` must not wait for it. No module
directly in this package may be called audit, measure or compare: importing it would replace the function.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quail_audit.api import AuditOptions as AuditOptions
    from quail_audit.api import Report as Report
    from quail_audit.api import audit as audit
    from quail_audit.api import audit_events as audit_events
    from quail_audit.api import compare as compare
    from quail_audit.api import measure as measure
    from quail_audit.api import read_report as read_report
    from quail_audit.core.errors import BadInputError as BadInputError
    from quail_audit.core.errors import EnvironmentProblemError as EnvironmentProblemError
    from quail_audit.core.errors import InterruptedRunError as InterruptedRunError
    from quail_audit.core.errors import QuailError as QuailError
    from quail_audit.core.errors import UsageError as UsageError
    from quail_audit.engine.forgetting.data.types import ForgettingData as ForgettingData
    from quail_audit.engine.forgetting.metrics.interface import Classifier as Classifier
    from quail_audit.engine.forgetting.metrics.interface import LanguageModel as LanguageModel
    from quail_audit.engine.forgetting.metrics.interface import Measured as Measured
    from quail_audit.engine.forgetting.metrics.interface import Metric as Metric
    from quail_audit.engine.forgetting.metrics.interface import Sample as Sample
    from quail_audit.engine.schemes.interface import Quantized as Quantized
    from quail_audit.engine.schemes.interface import Scheme as Scheme
    from quail_audit.schema.events.lines import Event as Event
    from quail_audit.schema.figures import LayerStatistics as LayerStatistics
    from quail_audit.schema.figures import Score as Score
    from quail_audit.verdict.comparison import Comparison as Comparison

__version__ = "0.1.0"

_HOMES = {
    "quail_audit.api": ("audit", "audit_events", "AuditOptions", "measure", "read_report", "Report", "compare"),
    "quail_audit.core.errors": (
        "BadInputError",
        "EnvironmentProblemError",
        "InterruptedRunError",
        "QuailError",
        "UsageError",
    ),
    "quail_audit.engine.forgetting.data.types": ("ForgettingData",),
    "quail_audit.engine.forgetting.metrics.interface": ("Classifier", "LanguageModel", "Measured", "Metric", "Sample"),
    "quail_audit.engine.schemes.interface": ("Quantized", "Scheme"),
    "quail_audit.schema.events.lines": ("Event",),
    "quail_audit.schema.figures": ("LayerStatistics", "Score"),
    "quail_audit.verdict.comparison": ("Comparison",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    """Import a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
