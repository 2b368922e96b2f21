"""Hold what every measurement of an audit needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from quail_audit.core.values import Value

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.schemes.backends.process import Scratch
    from quail_audit.runs.journal import Journal
    from quail_audit.schema.policy import Policy
    from quail_audit.schema.report import Report
    from quail_audit.schema.requests import AuditRequest

Side = Literal["original", "unlearned"]


class KeptAsked(Value):
    """A mark that an arm was asked all that it will be."""


@dataclass(frozen=True, eq=False)
class Work:
    """An audit under way.

    Attributes:
        request: what to measure.
        policy: gives the limits.
        journal: what was measured before, and where it is kept.
        scratch: where backends write.
        report: returns the report of what was measured so far.
        quantized: calibrated scheme -> both checkpoints as its backend wrote them, if they are needed.
    """

    request: AuditRequest
    policy: Policy
    journal: Journal
    scratch: Scratch
    report: Callable[[], Report]
    quantized: dict[str, dict[Side, Checkpoint]] = field(default_factory=dict)

    def keep_asked(self, *arms: str) -> None:
        """Keep that arms will be asked nothing more."""
        for arm in arms:
            self.journal.keep(KeptAsked(), "asked", arm, str(self.request.max_samples))

    def was_asked(self, arm: str) -> bool:
        """Tell if the journal holds all that an arm is asked, so that its model is not needed."""
        return self.journal.holds("asked", arm, str(self.request.max_samples))

    @cached_property
    def device(self) -> torch.device:
        """The device on which layers are measured."""
        from quail_audit.engine.forgetting.models.device import find_device

        return find_device(self.request.device)
