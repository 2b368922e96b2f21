"""Find the arms that a scheme is judged by, by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quail_audit.schema.report import FULL, arm_at


@dataclass(frozen=True)
class Arms:
    """Names of arms; None if there is no such arm.

    Attributes:
        original: the original in full precision, or as it is stored if it is only given quantized.
        rounded: the original as deployed.
        unlearned: the unlearned checkpoint in full precision.
        deployed: as deployed.
        reference: a model that never saw the forget set.
    """

    original: str
    rounded: str | None
    unlearned: str | None
    deployed: str | None
    reference: str | None

    def named(self) -> dict[str, str]:
        """Return role -> arm, of those that there are."""
        return {role: name for role, name in vars(self).items() if name is not None}

    @property
    def floor(self) -> str | None:
        """Return the arm that shows what a model may know: the reference, else the unlearned one in full precision."""
        return self.reference or self.unlearned


def arms_at(measured: Iterable[str], scheme: str) -> Arms | None:
    """Return the arms of a scheme among those that were measured; None if an original or an unlearned one is absent."""
    found = set(measured)

    def known(*names: str) -> str | None:
        return next((name for name in names if name in found), None)

    original = known(f"original/{FULL}", arm_at("original", scheme))
    unlearned, deployed = known(f"unlearned/{FULL}"), known(arm_at("unlearned", scheme))
    if original is None or (unlearned is None and deployed is None):
        return None
    rounded = known(arm_at("original", scheme))
    references = sorted((arm for arm in found if arm.startswith("retrain/")), key=lambda arm: arm != f"retrain/{FULL}")
    return Arms(original, rounded, unlearned, deployed, references[0] if references else None)
