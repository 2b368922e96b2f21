"""Define an objective: its terms and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quail_audit.schema.requests import HingeForm, Precision
from quail_train.objectives.presets import ForgetTerm, RetainTerm

TermName = Literal["forget", "retain", "hinge", "l1"]


@dataclass(frozen=True)
class Objective:
    """A preset with its numbers.

    Attributes:
        hinge_weight, retain_weight, l1_weight: lambda, alpha, mu.
        margin: gamma, in logits (nats for the log-probability form).
        forget_loss_cap: where gradient ascent stops, nats a token; None: nowhere.
    """

    forget: ForgetTerm | None
    retain: RetainTerm | None
    hinge: HingeForm | None
    hinge_precision: Precision
    hinge_weight: float
    retain_weight: float
    l1_weight: float
    margin: float
    forget_loss_cap: float | None

    @property
    def hinge_is_rounded(self) -> bool:
        """True if the hinge looks at the rounded model."""
        return self.hinge is not None and self.hinge_precision == "quantized"

    @property
    def needs_original_on(self) -> tuple[bool, bool]:
        """(True if the original's logits are needed on forget samples, the same for retain samples)."""
        return self.hinge is not None or self.forget == "npo", self.retain == "klr"
