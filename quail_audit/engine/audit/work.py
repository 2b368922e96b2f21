"""Hold what every measurement of an audit needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.schemes.backends.process import Scratch
    from quail_audit.runs.journal import Journal
    from quail_audit.schema.policy import Policy
    from quail_audit.schema.requests import AuditRequest

Side = Literal["original", "unlearned"]


@dataclass(frozen=True, eq=False)
class Work:
    """An audit under way.

    Attributes:
        request: what to measure.
        policy: gives the limits.
        journal: what was measured before, and where it is kept.
        scratch: where backends write.
        quantized: calibrated scheme -> both checkpoints as its backend wrote them, if they are needed.
    """

    request: AuditRequest
    policy: Policy
    journal: Journal
    scratch: Scratch
    quantized: dict[str, dict[Side, Checkpoint]] = field(default_factory=dict)

    @cached_property
    def device(self) -> torch.device:
        """The device on which layers are measured."""
        from quail_audit.engine.forgetting.models.device import find_device

        return find_device(self.request.device)
