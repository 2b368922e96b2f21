"""Layers that are rounded each by a scheme of its own, as files that mix formats are deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quail_audit.engine.schemes.interface import Scheme


@dataclass(frozen=True)
class ByLayer:
    """Which scheme rounds which layer.

    Attributes:
        name: of the whole, as reports have it: the format that most weights are stored in.
        schemes: layer -> what rounds it.
    """

    name: str
    schemes: Mapping[str, Scheme]
